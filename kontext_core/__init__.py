"""FLUX.1 Kontext and its mathematics, without ComfyUI.

    geometry.py      the transformer's sizes, read from a file's tensor shapes
    names.py         what other tools call the layers, and where each lies in the tree
    checkpoints.py   model files, from their headers: whole, of which layout, Kontext or not
    adapters/        LoRA files of every layout
    tokens.py        latents to tokens and back; where target and references lie on the model's canvas
    transformer.py   the FLUX.1 tree with checkpoint names, and the forward pass over it
    schedule.py      noise levels from the number of target tokens
    solvers.py       from noise to picture: euler, heun, multistep
    resolutions.py   the sizes the model was trained on, and sizes of a given ratio
    frames.py        fitting a picture to a size
    embedded/        the tiny Kontext that ships with the pack

Import the module you need; nothing is re-exported here.
"""
