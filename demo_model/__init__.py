"""How the demo model is made: drawn pictures, a small Phi-3.5-vision, a training recipe, an exam.

`pictures` draws, `questions` asks about what was drawn, `samples` turns both into tensors, `network`
is the architecture under the published names, `recipe` says what is trained in which order, `train`
does it, and `exam` asks a running server about pictures that were never trained on.

Unfinished: what is served as the demo still has random weights. Trained on a CPU so far (93,840 pictures, the
global view only), the network says 94 % of answer tokens right while training, with the truth before each;
it has not been examined through the server, nor trained on crops.
"""
