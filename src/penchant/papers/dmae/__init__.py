"""DMAE: Distribution-Guided Auto-Encoder for User Multimodal Interest Cross Fusion."""
