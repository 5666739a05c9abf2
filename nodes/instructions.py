"""Instructions from fields."""

from comfy_api.latest import io, ui

from ..host.text_length import read_text
from ..kontext_core.instructions import ACTIONS, compose, estimate_tokens, lint, unreadable
from .sockets import output

_COMPOSITION = "the composition and the place of everything the same"


def _field(name: str, default: str, tooltip: str) -> io.Input:
    return io.String.Input(name, default=default, tooltip=tooltip)


def _keep(default: str) -> io.Input:
    return _field("keep", default, "What must stay the same; it follows 'while keeping'. Empty: that part is omitted.")


def _kinds() -> list[io.DynamicCombo.Option]:
    action = io.Combo.Input(
        "action",
        options=list(ACTIONS),
        tooltip="Chooses the verb. With 'add' the result says where; 'remove' needs no result.",
    )
    person = _field(
        "subject", "the woman with short black hair", "The person or thing, named unambiguously. No pronouns."
    )
    return [
        io.DynamicCombo.Option("local", [
            action,
            _field("subject", "the car", "The thing that changes: the red car on the left."),
            _field("result", "bright red", "Says what it becomes, or for 'add' where it goes."),
            _keep("everything else the same"),
        ]),
        io.DynamicCombo.Option("global", [
            _field("result", "a winter evening with snow on the ground", "Says what the whole picture becomes: season, "
                   "light, weather."),
            _keep(_COMPOSITION),
        ]),
        io.DynamicCombo.Option("text", [
            _field("old", "OPEN", "The words in the picture now, exactly as spelled. Quotes are added."),
            _field("new", "CLOSED", "The words that replace them; a similar number of letters works best."),
            _keep("the same font, size and colour"),
        ]),
        io.DynamicCombo.Option("character", [
            person,
            _field("scene", "reading a book in a library", "Says where the subject is now and what it does."),
            _keep("the same face, hairstyle and expression"),
        ]),
        io.DynamicCombo.Option("style", [
            _field("style", "a watercolour painting", "The exact style: a movement, an artist's technique."),
            _field("traits", "visible brush strokes and soft edges", "Describes what it looks like. May be empty."),
            _field("scene", "", "For the style of a reference: what to draw in it. Then style and keep are not used."),
            _keep(_COMPOSITION),
        ]),
        io.DynamicCombo.Option("background", [
            person,
            _field("background", "a sunny beach", "Says what is behind the subject afterwards."),
            _keep("the same position, scale, pose, camera angle and framing"),
        ]),
    ]  # fmt: skip


class KontextInstruction(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextInstruction",
            display_name="Kontext Instruction",
            category="kontext/conditioning",
            description="Composes the instruction from a few fields, and warns about wording that may be misread.",
            has_intermediate_output=True,
            search_aliases=["prompt", "prompt builder", "text", "instruction template", "lint"],
            inputs=[
                io.DynamicCombo.Input(
                    "kind",
                    options=_kinds(),
                    tooltip="Chooses the kind of edit: a thing, the whole picture, written words, a person in another "
                    "place, the style, the background.",
                ),
                _field("more", "", "Added unchanged after the sentence. May be empty."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Counts the tokens exactly, compares them with training's 512, and reports unreadable "
                    "characters. Without it they are estimated for T5.",
                ),
            ],
            outputs=[output(io.String, "text", "The instruction, for the text of CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, kind: dict, more: str, clip=None) -> io.NodeOutput:
        fields = {name: value for name, value in kind.items() if name != "kind"}
        text = " ".join((compose(kind["kind"], fields), more.strip())).strip()
        exact = clip is not None
        tokens, unread = read_text(clip, text) if exact else (estimate_tokens(text), unreadable(text))
        length = f"{tokens} tokens" if exact else f"about {tokens} tokens (estimated; connect clip to count them)"
        return io.NodeOutput(text, ui=ui.PreviewText("\n".join((text, length, *unread, *lint(text, tokens, exact)))))


NODES = [KontextInstruction]
