"""The only room that knows ComfyUI's internals (0.30.0 and later).

    requirements.py  is this ComfyUI new enough
    files.py         is a text encoder or an autoencoder what FLUX.1 needs
    adapters.py      LoRA files on a MODEL, through the weight adapters of the host
    loading.py       MODEL, CLIP and VAE, embedded or from the host's model folders
    autoencoder.py   the embedded autoencoder as a host VAE
    text_encoder.py  the embedded text encoder as a host CLIP
    text_length.py   how many tokens T5 reads
    notices.py       warnings that the user sees on the running node
    images.py        IMAGE and MASK: what is refused, float32 on the CPU in, the host's numbers and device out
    latents.py       LATENT dictionaries: empty ones, their sizes, what FLUX.1 can use
    references.py    IMAGE to reference LATENT
    conditioning.py  references and guidance on a CONDITIONING, under the host's own keys
    sampling.py      our solvers as a host SAMPLER, and a whole sampling run

Import the module you need; nothing is re-exported here.
"""
