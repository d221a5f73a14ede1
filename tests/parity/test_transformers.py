"""A second witness: transformers' own Janus, on random weights of another shape, where it follows the original.

It does not when a picture is resized (rounding) and when codes are looked up for an encoded picture (no l2 norm), so
those are left to the recorded originals.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import JanusConfig, JanusForConditionalGeneration

import janus_core
from janus_core.generation.sampling import Sampling
from janus_core.generation.text import answer_ids, embed_prompts

TOKENIZER = Path(__file__).parents[1] / "data" / "tiny_transformers"
WIDTH = 48
SIZES = {
    "text_config": {
        "model_type": "llama",
        "vocab_size": 320,
        "hidden_size": WIDTH,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5000.0,
    },
    "vision_config": {
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "image_size": 64,
        "patch_size": 8,
        "mlp_ratio": 3.0,
        "depth": 3,
        "num_image_tokens": 64,
        "projection_dim": WIDTH,
    },
    "vq_config": {
        "base_channels": 32,
        "channel_multiplier": [1, 2, 1, 2],
        "num_res_blocks": 1,
        "latent_channels": 24,
        "embed_dim": 6,
        "num_embeddings": 96,
        "num_hidden_layers": 3,
        "projection_dim": WIDTH,
        "image_token_embed_dim": WIDTH,
    },
}


@pytest.fixture(scope="module")
def theirs() -> JanusForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = JanusForConditionalGeneration(JanusConfig(**SIZES, image_token_id=293, tie_word_embeddings=False))
        for name, parameter in model.named_parameters():
            # Loud where the transformer draws, so that greedy pictures are not one code all over.
            gain = 2 if "language_model.layers" in name or "generation" in name else 1
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.data.normal_(0, gain * fan_in**-0.5).add_(float(parameter.ndim == 1) * 0.5)
    model.generation_config.update(bos_token_id=284, eos_token_id=285, pad_token_id=286)
    model.generation_config.generation_kwargs = {"boi_token_id": 287}
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory) -> janus_core.Janus:
    """The same weights through a folder that transformers wrote: its config, sharded safetensors with an index."""
    folder = tmp_path_factory.mktemp("transformers") / "model"
    theirs.save_pretrained(folder, max_shard_size="300KB")
    assert (folder / "model.safetensors.index.json").is_file() and len(list(folder.glob("*.safetensors"))) > 2
    for path in TOKENIZER.glob("*token*.json"):
        shutil.copyfile(path, folder / path.name)
    return janus_core.load(folder)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_ids(*shape: int, below: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_picture_embeddings(ours, theirs, close):
    pixels = random(2, 3, 64, 64)
    close(ours.model.embed_images(pixels), theirs.model.get_image_features(pixels, return_dict=True).pooler_output)


@torch.no_grad()
def test_code_embeddings_and_generation_head(ours, theirs, close):
    ids = random_ids(2, 9, below=96)
    close(ours.model.embed_codes(ids), theirs.prepare_embeddings_for_image_generation(ids))
    hidden = random(4, WIDTH)
    close(ours.model.gen_head(hidden), theirs.model.generation_head(hidden))


@torch.no_grad()
def test_vq_encoder_and_decoder(ours, theirs, close):
    vq, pixels = ours.model.gen_vision_model, random(2, 3, 64, 64)
    encoded = theirs.model.vqmodel.encoder(pixels)
    close(vq.encoder(pixels), encoded)
    close(vq.quant_conv(encoded), theirs.model.vqmodel.quant_conv(encoded))
    ids = random_ids(2, 64, below=96)
    close(vq.decode(ids, (8, 8)).permute(0, 2, 3, 1), theirs.decode_image_tokens(ids))


@torch.no_grad()
def test_logits_up_to_a_long_context(ours, theirs, close):
    ids = random_ids(1, 1500, below=280)
    language = ours.model.language_model
    close(language.lm_head(language.model(language.model.embed_tokens(ids))), theirs(input_ids=ids).logits)


@torch.no_grad()
def test_answers_of_a_left_padded_batch(ours, theirs, close, record):
    """Two questions of different lengths, each about one picture: logits of every step and greedy ids."""
    pixels, steps = random(2, 3, 64, 64, seed=1), 12
    prompts = [ours.processor.question_prompt(q, 1) for q in ("What?", "How many cats are in the boat tonight?")]
    special = {"image_id": ours.processor.image, "pad": ours.processor.pad}
    features = ours.model.embed_images(pixels)
    embeds, mask = embed_prompts(ours.model, prompts, **special, features=features, device=ours.device)
    logits = record(ours.model.language_model.lm_head)
    answers = answer_ids(ours.model, embeds, mask, ours.execution, eos=-1, max_new_tokens=steps, sampling=Sampling(0))

    width = mask.shape[1]
    ids = torch.tensor([[286] * (width - len(prompt)) + prompt for prompt in prompts])
    expected = theirs.generate(
        ids,
        attention_mask=mask.long(),
        pixel_values=pixels,
        do_sample=False,
        max_new_tokens=steps,
        eos_token_id=-1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert answers == expected.sequences[:, -steps:].tolist()
    close(torch.stack(logits), torch.stack(expected.logits))


@pytest.mark.parametrize("weight", [2.0, 5.0])
def test_greedy_pictures(ours, theirs, weight):
    """At weight 1 transformers cannot draw at all, so that is left to the recorded run."""
    prompt = torch.tensor([ours.processor.drawing_prompt("the red cat")])
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_mode="image",
        guidance_scale=weight,
        do_sample=False,
    )
    drawn = ours.generate("the red cat", cfg_weight=weight, temperature=0)
    assert drawn.grid == (8, 8)
    assert len(set(drawn.ids[0].tolist())) > 8
    assert drawn.ids.tolist() == expected.tolist()
