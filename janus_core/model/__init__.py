"""The network: SigLIP encodes pictures for reading, LLaMA is the transformer, the VQ tokenizer turns codes into pictures."""
