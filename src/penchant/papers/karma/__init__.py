"""KARMA: Knowledge-Action Regularized Multimodal Alignment for Personalized Search at Taobao, arXiv 2603.22779."""
