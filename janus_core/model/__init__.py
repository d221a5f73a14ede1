"""The network: SigLIP reads, LLaMA thinks, the VQ tokenizer draws."""
