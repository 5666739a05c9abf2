"""Sessions: the node before an edit, and the node that stores its result."""

from comfy_api.latest import io, ui

from ..host import sessions as host_sessions
from .sockets import SESSION, integer, output

POINTER, TURN = "the pointer", "a turn"


class KontextSession(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        turn = integer(
            "turn", 0, (0, 1_000_000), "The turn's number, as the Kontext History tab shows it. 0 is the first picture."
        )
        return io.Schema(
            node_id="KontextSession",
            display_name="Kontext Session",
            category="kontext/session",
            description="The picture that the next edit starts from: the last result, or the turn clicked in the "
            "Kontext History tab.",
            has_intermediate_output=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            search_aliases=[
                "before after",
                "history",
                "multi-turn",
                "undo",
                "conversation",
                "edit tree",
                "load last image",
            ],
            inputs=[
                io.String.Input(
                    "session",
                    default="my session",
                    tooltip="The session's name. A new name begins a new session with first_picture.",
                ),
                io.DynamicCombo.Input(
                    "continue_from",
                    tooltip="Chooses the turn to continue from. 'the pointer': the last result, or the turn clicked in "
                    "the Kontext History tab. 'a turn': always the same one.",
                    options=[io.DynamicCombo.Option(POINTER, []), io.DynamicCombo.Option(TURN, [turn])],
                ),
                io.Image.Input(
                    "first_picture",
                    optional=True,
                    tooltip="Begins a session if none has this name. Not used afterwards.",
                ),
            ],
            outputs=[
                output(io.Image, "image", "The picture to edit."),
                output(io.Image, "first_picture", "The session's first picture."),
                output(
                    io.Latent,
                    "latent",
                    "The picture's latent, if Kontext Save Turn stored one. Otherwise nodes connected here "
                    "fail with an error.",
                ),
                output(SESSION, "session", "For Kontext Save Turn."),
                output(io.String, "history", "The instructions from the first picture to this turn, one per line."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, session: str, continue_from: dict, first_picture=None) -> str:
        return host_sessions.fingerprint(session, continue_from.get("turn"))

    @classmethod
    def execute(cls, session: str, continue_from: dict, first_picture=None) -> io.NodeOutput:
        opened = host_sessions.open_session(
            session, continue_from.get("turn"), first_picture, cls.hidden.prompt, cls.hidden.extra_pnginfo
        )
        *values, report = opened
        return io.NodeOutput(*values, ui=ui.PreviewText(report))


class KontextSaveTurn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextSaveTurn",
            display_name="Kontext Save Turn",
            category="kontext/session",
            description="Stores the result as the session's next turn; the next run continues from it.",
            is_output_node=True,
            has_intermediate_output=True,
            search_aliases=["Save Image", "history", "multi-turn", "undo"],
            inputs=[
                SESSION.Input("session", tooltip="The turn that was edited: from Kontext Session."),
                io.String.Input(
                    "instruction",
                    default="",
                    multiline=True,
                    tooltip="The instruction that the Kontext History tab shows. Connect the text that the model got.",
                ),
                io.Boolean.Input(
                    "keep",
                    default=True,
                    tooltip="Takes unchanged pixels from the previous turn, bit for bit, like Kontext Preserve. A "
                    "global edit is stored as it is.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The new picture, in the size of the one that was edited. A batch becomes siblings.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The sampler's latent, stored with the picture. Without image, vae decodes it.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Decodes latent when no image is connected."),
            ],
            outputs=[
                output(io.Image, "image", "The picture as stored."),
                output(
                    io.Mask,
                    "mask",
                    "White where this turn changed something, black where pixels equal the previous turn's.",
                ),
                output(SESSION, "session", "This turn, for another edit in the same run."),
                output(io.String, "report", "The turn's number, and the fraction kept."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> str:
        return host_sessions.moves()

    @classmethod
    def execute(cls, session, instruction: str, keep: bool, image=None, latent=None, vae=None) -> io.NodeOutput:
        saved = host_sessions.save_turn(
            session, instruction, image, latent, vae, keep, cls.hidden.prompt, cls.hidden.extra_pnginfo
        )
        return io.NodeOutput(*saved, ui=ui.PreviewText(saved.report))


NODES = [KontextSession, KontextSaveTurn]
