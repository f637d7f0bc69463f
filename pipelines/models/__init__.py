"""Networks, pretrained weights, fine-tuning and cached features."""
