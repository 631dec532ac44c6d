"""Phi-3.5-vision natively: picture geometry, HD transform, vLLM's processor and model.

`geometry` is arithmetic without torch; everything else here imports torch or vLLM.
"""
