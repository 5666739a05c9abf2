"""The recipe: every number of the embedded model's training, each of them used."""

from __future__ import annotations

from kontext_core.geometry import Geometry

GEOMETRY = Geometry(
    in_channels=16,
    out_channels=16,
    hidden_size=256,
    num_heads=2,
    depth=2,
    depth_single_blocks=4,
    context_in_dim=128,
    vec_in_dim=128,
    axes_dim=(16, 56, 56),
    theta=10000,
    mlp_ratio=4.0,
    guidance_embed=True,
)

# (width, height) in pixels: how often
CANVASES = {(128, 128): 10, (64, 64): 4, (96, 96): 4, (160, 96): 1, (96, 160): 1, (192, 192): 3, (256, 256): 6}
FREE = 0.75  # share of the samples whose scene is free of the grid
PHOTOGRAPHS = 0.3  # share of these whose background is a photograph
WEAR = 0.15  # share of the batches whose references have been through the autoencoder, as an edit's result has
TASK_WEIGHTS = {  # how often training draws a task on the grid
    "background": 6,
    "global": 6,
    "photograph": 6,
    "recolour": 5,
    "remove": 6,
    "add": 8,
    "replace": 6,
    "move": 8,
    "resize": 8,
    "letter": 6,
    "character": 10,
    "style": 8,
    "two references": 10,
    "text to image": 16,
}
FREE_WEIGHTS = {  # and free of it
    "background": 24,
    "global": 4,
    "recolour": 30,
    "remove": 16,
    "add": 8,
    "replace": 14,
    "move": 10,
    "resize": 10,
    "letter": 6,
    "character": 8,
    "style": 4,
    "two references": 6,
    "open add": 2,
    "open background": 2,
    "open recolour": 1,
    "unchanged": 3,
}
TEXT_DROPOUT = 0.1  # share of samples without text, so that true CFG and negatives work; half of them are zeros
SIGMA_LOGIT = (0.3, 1.7)  # mean and deviation of sigma's logit: what to do is decided at high noise, exactness at low
GUIDANCE = (1.0, 5.0)  # drawn at random: the embedding is there as in [dev], and has no effect yet
CHANGED_WEIGHT = 8.0  # added to the loss weight of tokens that the edit changes
CHANGED_LEVEL = 0.05  # a pixel has changed from this difference on (0..1)
SEMANTIC_WEIGHT = 0.5  # of what the tokens show in the loss, beside the velocity
BINDING_WEIGHT = 0.5  # of what the nouns' contexts know of their things
BINDING_TEXTS = 16  # texts for that, in every step of a process

MUON_RATE = 0.008  # matrices of the blocks and of the text encoder
ADAM_RATE = 1.2e-3  # everything else
WARM_STEPS = 50
EMA = 0.99  # decay of the averaged weights, which are the ones shipped
CLIP_NORM = 1.0  # of the gradient of what Adam trains
