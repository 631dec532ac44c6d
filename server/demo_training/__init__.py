"""How the demo model is made: drawn pictures, a small Phi-3.5-vision, a training recipe, an exam.

`pictures` draws, `views` cuts what was drawn into what the tower sees, `labels` says what is there and
`questions` asks about it, `samples` turns all into tensors. `tower` and `network` are the architecture
under the published names, `recipe` says what is trained in which order, `train` does it, and `exam`
draws pictures that were never trained on, for `make eval-demo`.
"""
