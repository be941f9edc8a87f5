"""The paper's memory on the paper's software: FPT and FPT+ trained with PyTorch 2.0.0 on an emulated RTX A6000."""
