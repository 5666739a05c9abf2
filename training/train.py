"""Train the embedded transformer and its text encoder.

    python -m training.train --run runs/1 --autoencoder runs/autoencoder.pt --batch 16 --minutes 120
    python -m training.train --run runs/1 --autoencoder runs/autoencoder.pt --batch 16 --minutes 60 --decay
    python -m training.train --run runs/2 --shipped --batch 16 --minutes 60
    python -m training.train --run runs/3 --shipped --distil --batch 16 --minutes 60 --decay

Each call continues from the run's checkpoint (weights, averages, momenta, counters), so it can be stopped at any time
and loses at most three minutes. `--decay` lets the learning rate fall to zero over the given time. Computation is in
bfloat16 with float32 master weights, on a GPU if there is one. On a CPU several processes share the work
(`--processes`), one thread each: small models run slower with two threads in one process. More processes prefetch
batches (`--workers` each).

With `--distil` the model learns to follow its text as with CFG, in one model call and at a scale that follows from the
guidance value, as [dev] does. A frozen copy of the weights tells how the text changes the velocity (`guided`).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from kontext_core import embedded, tokens, transformer
from kontext_core.embedded.autoencoder import SCALE, SHIFT, Autoencoder
from kontext_core.embedded.text_encoder import TextEncoder, Vocabulary
from kontext_core.transformer import KontextTransformer
from training import recipe
from training.binding import Binding
from training.data import Batch, loader
from training.instructions import all_words
from training.muon import muon_update
from training.semantics import Heads, block_inputs, semantic_loss

COMMON = (128, 128)  # the canvas whose loss is logged
COMPILED = ((128, 128), (256, 256))  # canvases with one reference whose blocks `--compile` compiles
REPORT_STEPS = 50
SAVE_SECONDS = 180


class Student(nn.Module):
    """Transformer and text encoder, trained together with the heads of the semantic and binding losses."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = Vocabulary(all_words())
        self.text_encoder = TextEncoder(len(self.vocabulary))
        self.transformer = KontextTransformer(recipe.GEOMETRY)
        self.heads = Heads(recipe.GEOMETRY.hidden_size)
        self.binding = Binding()
        initialise(self)

    def ids(self, texts: list[str]) -> Tensor:
        """Token ids of texts, (b, 20)."""
        return torch.tensor([self.vocabulary.encode(text)[0] for text in texts])

    def forward(
        self, img: Tensor, img_ids: Tensor, text: Tensor, text_on: Tensor, sigma: Tensor, guidance: Tensor
    ) -> Tensor:
        context, pooled = self.text_encoder(text)
        context, pooled = context * text_on[:, None, None], pooled * text_on[:, None]
        txt_ids = context.new_zeros(*context.shape[:2], 3)
        return self.transformer(img, img_ids, context, txt_ids, sigma, pooled, guidance, attention=attention)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Unfused attention: on a CPU its backward pass is twice as fast as that of torch's fused kernel."""
    scores = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
    return (scores @ v).transpose(1, 2).flatten(2)


def initialise(student: Student) -> None:
    """Zero modulation and output (adaLN-zero), and one attention head that copies its own position from the reference.

    A constant query and key in the fast frequencies of the position makes a head attend to the same position; rotating
    the query's index frequencies by one step makes it the same position *in the reference*. The model can copy from the
    start, and training is spent on the differences.
    """
    for module in student.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
    tree = student.transformer
    layers = [block.modulation.lin for block in tree.single_blocks]
    layers += [mod.lin for block in tree.double_blocks for mod in (block.img_mod, block.txt_mod)]
    for layer in (*layers, tree.final_layer.linear, tree.final_layer.adaLN_modulation[1], tree.guidance_in.out_layer):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for layer in layers:  # gates start half open: Muon needs no warm start
        hidden = layer.in_features
        for gate in range(2 * hidden, layer.out_features, 3 * hidden):
            nn.init.constant_(layer.bias[gate : gate + hidden], 0.5)
    for block in tree.double_blocks:
        _look_at_own_place(block.img_attn.qkv)
    for block in tree.single_blocks:
        _look_at_own_place(block.linear1)


@torch.no_grad()
def _look_at_own_place(layer: nn.Linear) -> None:
    g = recipe.GEOMETRY
    head_dim = g.hidden_size // g.num_heads
    head = torch.zeros(head_dim)
    head[16:28] = head[72:84] = 1.5  # six fast frequencies of row and column, cosine and sine
    query = head.clone()
    key = head.clone()
    key[0:8:2] = 2.0  # four fast frequencies of the index
    frequencies = g.theta ** -(torch.arange(0, 8, 2) / g.axes_dim[0])
    query[0:8:2], query[1:8:2] = 2.0 * torch.cos(frequencies), 2.0 * torch.sin(frequencies)
    rows = layer.bias[: 3 * g.hidden_size].view(3, g.num_heads, head_dim)
    rows[0, 0], rows[1, 0] = query, key  # only the first head is set to attend to the reference


# The loss


def encode(autoencoder: Autoencoder, pictures: Tensor) -> Tensor:
    """Packed latents (b, n, 64) of pictures (b, 3, h, w) in 0..1."""
    with torch.no_grad():
        latents = autoencoder.encode((2 * pictures - 1).to(memory_format=torch.channels_last))
        return tokens.pack((latents.float() - SHIFT) * SCALE)


def recoded(autoencoder: Autoencoder, pictures: Tensor) -> Tensor:
    """Sometimes passes pictures through the autoencoder one to four times, as in a conversation of several turns."""
    if torch.rand(()) >= recipe.RECODED:
        return pictures
    with torch.no_grad():
        for _ in range(int(torch.randint(1, 5, ()))):
            pictures = (autoencoder.decode(autoencoder.encode(2 * pictures - 1)).float().clamp(-1, 1) + 1) / 2
    return pictures


def image_ids(size: tuple[int, int], references: int) -> Tensor:
    """Position ids of a target and `references` references of the same size, (1, n, 3)."""
    latent = (size[1] // 8, size[0] // 8)
    places = tokens.place_references([latent] * references, latent)
    ids = [tokens.position_ids(*latent)] + [tokens.position_ids(*latent, *place) for place in places]
    return torch.cat(ids)[None]


def losses(
    student: Student, autoencoder: Autoencoder, batch: Batch, teacher: Student | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The velocity, semantic and binding losses.

    The first two weight the tokens that the edit changes more. The velocity loss is the squared error at sigmas
    from a logit-normal distribution, stratified over the batch to reduce gradient noise. With a `teacher` it is the
    error against the teacher's guided velocity.
    """
    references = [encode(autoencoder, recoded(autoencoder, picture)) for picture in batch.references]
    data = encode(autoencoder, batch.target)
    (count, n, _), device = data.shape, data.device
    text_on = (torch.rand(count, device=device) >= recipe.TEXT_DROPOUT / 2).float()  # else zeros: ConditioningZeroOut
    conditioned = (text_on * batch.has_text)[:, None]
    weight = torch.lerp(torch.ones_like(batch.weight), batch.weight, conditioned)  # without text the change is unknown
    mean, deviation = recipe.SIGMA_LOGIT
    spread = torch.randperm(count, device=device) + torch.rand(count, device=device).clamp(0.01, 0.99)
    sigma = torch.sigmoid(mean + deviation * torch.special.ndtri(spread / count))
    noise = torch.randn_like(data)
    noisy = torch.lerp(data, noise, sigma[:, None, None])
    ids = image_ids(batch.size, len(references)).to(device).expand(count, -1, -1)
    guidance = torch.empty(count, device=device).uniform_(*recipe.GUIDANCE)
    guidance[::2] = recipe.USUAL_GUIDANCE
    inputs = torch.cat((noisy, *references), dim=1), ids, batch.text, text_on, sigma
    with block_inputs(student.transformer) as streams:
        velocity = student(*inputs, guidance)[:, :n].float()
    target = noise - data if teacher is None else guided(teacher, noise - data, inputs, guidance)
    velocity_loss = ((velocity - target).square().mean(-1) * weight).mean()

    every = torch.cat((weight, weight.new_ones(count, batch.truth.shape[1] - n)), dim=1) * conditioned
    features = [stream[:, -batch.truth.shape[1] :] for stream in streams]
    semantics = semantic_loss(student.heads, features, batch.truth, every)
    return velocity_loss, semantics, student.binding.loss(student.text_encoder, *batch.nouns)


@torch.no_grad()
def guided(teacher: Student, velocity: Tensor, inputs: tuple[Tensor, ...], guidance: Tensor) -> Tensor:
    """The target of `--distil` for the data's `velocity` (b, n, c).

    Between it and the teacher's velocity, which is less noisy and keeps what the teacher knows, and farther in the
    direction in which the text changes the teacher's: by CFG whose scale is 1 at guidance 1. The teacher is asked at
    guidance 1, because it may have been distilled before. Sources: Meng et al. 2023,
    arXiv 2210.03142 (distillation); Tang et al. 2025, arXiv 2502.12154 (guidance in the target).
    """
    *others, text_on, sigma = inputs
    plain = torch.ones_like(guidance)
    both = (teacher(*others, on, sigma, plain) for on in (text_on, torch.zeros_like(text_on)))
    with_text, without = (one[:, : velocity.shape[1]].float() for one in both)
    by_text = recipe.CFG_PER_GUIDANCE * (guidance - 1)[:, None, None] * (with_text - without)
    return torch.lerp(velocity, with_text, recipe.TEACHER) + by_text


# Optimisation


class Optimiser:
    """Muon for the matrices of the blocks and of the text encoder, Adam for the rest; sharded over the processes."""

    def __init__(self, student: Student, rank: int, processes: int):
        named = dict(student.named_parameters())
        self.matrices = [p for name, p in named.items() if p.ndim == 2 and _is_matrix(name)]
        chosen = {id(p) for p in self.matrices}
        self.others = [p for p in named.values() if id(p) not in chosen]
        self.adam = torch.optim.Adam(self.others, recipe.ADAM_RATE, betas=(0.9, 0.98))
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        self.rank, self.processes = rank, processes

    def step(self, rate: float) -> None:
        """One update from the gradients, at `rate` times the recipe's learning rates."""
        share_sum([p.grad for p in (*self.matrices, *self.others)], self.processes, mean=True)
        nn.utils.clip_grad_norm_(self.others, recipe.CLIP_NORM)
        self.adam.param_groups[0]["lr"] = recipe.ADAM_RATE * rate
        self.adam.step()
        with torch.no_grad():
            updates = []
            for index, (matrix, momentum) in enumerate(zip(self.matrices, self.momenta, strict=True)):
                mine = index % self.processes == self.rank
                updates.append(muon_update(matrix.grad, momentum) if mine else torch.zeros_like(matrix))
            share_sum(updates, self.processes)
            torch._foreach_add_(self.matrices, updates, alpha=-recipe.MUON_RATE * rate)

    def state_dict(self) -> dict:
        """State for resuming; each process keeps only its own shard of the momenta current."""
        share = [m if i % self.processes == self.rank else torch.zeros_like(m) for i, m in enumerate(self.momenta)]
        share_sum(share, self.processes)
        return {"adam": self.adam.state_dict(), "momenta": share}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        self.momenta = [momentum.clone() for momentum in state["momenta"]]


def _is_matrix(name: str) -> bool:
    blocks = "_blocks." in name and "mod" not in name
    return blocks or "text_encoder.layers" in name


def share_sum(tensors: list[Tensor], processes: int, mean: bool = False) -> None:
    """Sum tensors over the processes, in place, in bfloat16."""
    if processes == 1:
        return
    flat = torch.cat([tensor.flatten().bfloat16() for tensor in tensors])
    distributed.all_reduce(flat)
    if mean:
        flat /= processes
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


# The loop


class Trained(NamedTuple):
    """What a checkpoint holds."""

    student: Student
    average: Student  # its averaged weights, which ship
    teacher: Student | None  # with `--distil`
    optimiser: Optimiser
    progress: dict


def run(rank: int, options: argparse.Namespace) -> None:
    """One training process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    if options.processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
        distributed.init_process_group("gloo", rank=rank, world_size=options.processes)
    torch.manual_seed(0)
    if options.compile:
        compile_blocks()
    student = Student()
    progress = {"step": 0, "samples": 0, "seconds": 0.0}
    if options.shipped:
        progress["samples"] = load_shipped(student)
    student.to(device)
    average = copy.deepcopy(student).requires_grad_(False)
    teacher = copy.deepcopy(average) if options.distil else None
    optimiser = Optimiser(student, rank, options.processes)
    checkpoint = options.run / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device)
        student.load_state_dict(state["student"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        if teacher is not None:
            teacher.load_state_dict(state.get("teacher") or state["average"])
        elif state.get("teacher"):
            raise SystemExit(f"{options.run} was continued with --distil; continue it with --distil, or start another")
        progress = state["progress"]
    autoencoder = Autoencoder().requires_grad_(False)
    autoencoder.load_state_dict(
        torch.load(options.autoencoder) if options.autoencoder else embedded.load_autoencoder()[0]
    )
    autoencoder.to(device, memory_format=torch.channels_last)
    loop(rank, options, Trained(student, average, teacher, optimiser, progress), autoencoder)


def load_shipped(student: Student) -> int:
    """Copy the shipped weights into a student, matching words by name; returns the number of samples they have seen."""
    weights, metadata = embedded.load_transformer()
    student.transformer.load_state_dict(weights)
    text, text_metadata = embedded.load_text_encoder()
    rows = student.text_encoder.words.weight.detach().clone()
    shipped, known = Vocabulary(json.loads(text_metadata["vocabulary"])), student.vocabulary
    rows[:2] = text["words.weight"][:2]  # padding and end
    for word in set(known.words) & set(shipped.words):
        rows[known.encode(word)[0][0]] = text["words.weight"][shipped.encode(word)[0][0]].float()
    student.text_encoder.load_state_dict(text | {"words.weight": rows})
    return int(metadata["samples"])


def compile_blocks() -> None:
    """Fuse the blocks with torch.compile: 1.5 times the samples per second, after minutes of compilation per canvas."""
    torch._dynamo.config.recompile_limit = 32  # two canvases, with and without gradients, one or all rows
    transformer.double_block = torch.compile(transformer.double_block, dynamic=False)
    transformer.single_block = torch.compile(transformer.single_block, dynamic=False)


def loop(rank: int, options: argparse.Namespace, trained: Trained, autoencoder: Autoencoder) -> None:
    """Train until the minutes are over; writes a checkpoint every three minutes and at the end."""
    student, average, teacher, optimiser, progress = trained
    device = next(student.parameters()).device
    torch.manual_seed(1000 * progress["step"] + rank)
    batches = loader(student.vocabulary, options.batch, rank, progress["step"], options.workers)
    first, start, begun, saved, seen = dict(progress), time.monotonic(), progress["seconds"], 0.0, []
    while True:
        elapsed = agree(time.monotonic() - start, options.processes)
        if elapsed > 60 * options.minutes:
            break
        left = 1 - elapsed / (60 * options.minutes) if options.decay else 1.0
        rate = min((progress["step"] + 1) / recipe.WARM_STEPS, 1.0) * options.rate * left
        batch = next(batches).to(device)
        compiled = batch.size in COMPILED and len(batch.references) == 1
        with (
            torch.autocast(device.type, torch.bfloat16),
            torch.compiler.set_stance("default" if compiled else "force_eager"),
        ):
            velocity_loss, semantics, binding = losses(student, autoencoder, batch, teacher)
        student.zero_grad(set_to_none=False)
        (velocity_loss + recipe.SEMANTIC_WEIGHT * semantics + recipe.BINDING_WEIGHT * binding).backward()
        optimiser.step(max(rate, 0.01 * options.rate))
        progress["step"] += 1
        progress["samples"] += len(batch.target) * options.processes
        progress["seconds"] = begun + elapsed
        decay = min(recipe.EMA, (1 + progress["step"]) / (10 + progress["step"]))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), 1 - decay)
        if batch.size == COMMON and len(batch.references) == 1:
            seen.append((velocity_loss.item(), semantics.item(), binding.item()))
        if (progress["step"] - first["step"]) % REPORT_STEPS == 0 and seen:
            report(rank, options, progress, seen, (progress["samples"] - first["samples"]) / elapsed)
            seen.clear()
        if elapsed - saved > SAVE_SECONDS:
            saved = elapsed
            save(rank, options, trained)
    save(rank, options, trained)


def agree(seconds: float, processes: int) -> float:
    """The longest of the processes' times, so that all of them stop at the same step."""
    if processes == 1:
        return seconds
    value = torch.tensor([seconds])
    distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    return value.item()


def report(rank: int, options: argparse.Namespace, progress: dict, seen: list[tuple[float, ...]], speed: float) -> None:
    """Print a line and append it to the run's log, from which the curves are plotted."""
    if rank == 0:
        means = (round(math.fsum(part) / len(part), 4) for part in zip(*seen, strict=True))
        velocity_loss, semantics, binding = means
        row = {
            "step": progress["step"],
            "samples": progress["samples"],
            "seconds": round(progress["seconds"]),
            "side": COMMON[0],
            "loss": velocity_loss,
            "semantics": semantics,
            "binding": binding,
            "speed": round(speed, 1),
        }
        print(row, flush=True)
        with (options.run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def save(rank: int, options: argparse.Namespace, trained: Trained) -> None:
    """Write the checkpoint to a temporary name and rename it."""
    student, average, teacher, optimiser, progress = trained
    state = {
        "student": student.state_dict(),
        "average": average.state_dict(),
        "progress": progress,
        "optimiser": optimiser.state_dict(),
        "teacher": teacher and teacher.state_dict(),
    }
    if rank == 0:
        temporary = options.run / "checkpoint.tmp"
        torch.save(state, temporary)
        temporary.replace(options.run / "checkpoint.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--autoencoder", type=Path, help="its checkpoint (default: the shipped one)")
    parser.add_argument("--shipped", action="store_true", help="start a new run from the shipped weights")
    parser.add_argument("--batch", type=int, required=True, help="samples per process and step")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the recipe's learning rates")
    parser.add_argument("--decay", action="store_true", help="let the learning rate fall to zero")
    parser.add_argument("--distil", action="store_true", help="learn the guidance of CFG from the weights so far")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the blocks for the most common canvases")
    parser.add_argument("--workers", type=int, default=1, help="processes that prefetch batches, per training process")
    parser.add_argument("--port", type=int, default=29511)
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    if options.processes == 1:
        run(0, options)
    else:
        multiprocessing.spawn(run, (options,), nprocs=options.processes)


if __name__ == "__main__":
    main()
