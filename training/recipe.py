"""The hyperparameters of the embedded model's training."""

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

# (width, height) in pixels: relative frequency
CANVASES = {(128, 128): 10, (64, 64): 4, (96, 96): 4, (160, 96): 1, (96, 160): 1, (192, 192): 3, (256, 256): 9}
FREE = 0.65  # fraction of the samples whose scene is off the grid
PHOTOGRAPHS = 0.3  # fraction of these whose background is a photograph
RECODED = 0.15  # fraction of the batches whose references went through the autoencoder, like the result of an edit
TASK_WEIGHTS = {  # relative frequency of the tasks on the grid
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
    "character": 16,
    "style": 8,
    "two references": 10,
    "text to image": 22,
}
FREE_WEIGHTS = {  # relative frequency of the tasks off the grid
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
TEXT_DROPOUT = 0.1  # fraction of samples without text, for CFG and negatives; half of them use a zero embedding
SIGMA_LOGIT = (0.3, 1.7)  # mean and deviation of sigma's logit: high noise decides what to do, low noise its precision
GUIDANCE, USUAL_GUIDANCE = (1.0, 4.0), 2.5  # the values of half of the samples, and of the other half
CFG_PER_GUIDANCE = 2 / 3  # with `--distil`: how much the scale of CFG rises with the guidance value, from 1 at 1
TEACHER = 0.5  # with `--distil`: weight of the teacher's velocity; the data's has the rest
CHANGED_WEIGHT = 8.0  # added to the loss weight of tokens that the edit changes
CHANGED_LEVEL = 0.05  # smallest difference (0..1) that counts as a changed pixel
SEMANTIC_WEIGHT = 0.5  # weight of the semantic loss; the velocity loss has 1
BINDING_WEIGHT = 0.5  # weight of the binding loss
BINDING_TEXTS = 16  # texts of the binding loss per step and process

MUON_RATE = 0.008  # matrices of the blocks and of the text encoder
ADAM_RATE = 1.2e-3  # everything else
WARM_STEPS = 50
EMA = 0.99  # decay of the averaged weights, which are the ones that ship
CLIP_NORM = 1.0  # gradient norm limit of the parameters that Adam trains
