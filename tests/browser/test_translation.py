"""Reports, notices and errors of the server in the language of the browser."""

import json
import re

import pytest

from tools import ROOT

MODULE = "import('/extensions/kontext-nodes/translation.js')"
MESSAGES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "web" / "messages").glob("*.json"))
}
PATIENCE = 900  # s
LINES = [  # what the server writes: messages inside of others, several in a line, and unknown words
    ("seed 7; euler, 28 steps from sigma 1.000", "시드 7; euler, 28스텝, 시작 시그마 1.000"),
    (
        "cfg is 1: input negative has no effect; the negative of NAG has one",
        "cfg가 1이므로 부정 조건 입력은 효과가 없습니다; NAG의 부정 조건은 효과가 있습니다",
    ),
    ("128x128 px, as is, pad: 96x96 px, 36 tokens", "128x128 px, as is, pad: 96x96 px, 토큰 36개"),
    (
        "28 steps, from 0% to 50% of a run: 10 full, 18 forecast, 3 answered by another node",
        "28스텝, 실행의 0%~50%: 전체 계산 10, 예측 18, 다른 노드가 대신 답함 3",
    ),
    (
        "about 40% of the arithmetic, 4% of it to test cached references: used here",
        "연산량의 약 40%, 그중 4%: 캐시한 참조의 시험, 여기서 사용함",
    ),
    (
        "clip_l: a: this is no text encoder; CLIP-L is needed. Choose FLUX.1's b or a similar file.",
        "clip_l: a: 텍스트 인코더가 아닙니다. 필요한 것은 CLIP-L입니다. FLUX.1의 b 또는 비슷한 파일을 고르세요.",
    ),
    (
        "a.safetensors: FLUX.1 [dev], which has not learned to edit, known by its name",
        "a.safetensors: 편집을 학습하지 않은 FLUX.1 [dev], 이름으로 확인",
    ),
    ("  reference 2: 64x64 px, 3.1 kB of PNG", "  참조 2: 64x64 px, PNG 3.1 kB"),
    ("nobody wrote this: 3 full moons, or two; so what", "nobody wrote this: 3 full moons, or two; so what"),
]


def node(kind):
    return f"app.graph.nodes.find((node) => node.type === '{kind}')"


def widget(kind, name):
    return f"{node(kind)}.widgets.find((widget) => widget.name === '{name}')"


@pytest.fixture
def speak(page):
    """`speak(language, texts)`: the texts in that language."""

    def translate(language, texts):
        page.evaluate(f"app.extensionManager.setting.set('Comfy.Locale', '{language}')")
        return page.evaluate(
            f"{MODULE}.then(async (module) => {{"
            f"await module.loadMessages(); return {json.dumps(texts)}.map(module.translated); }})"
        )

    yield translate
    translate("en", [])


@pytest.mark.parametrize("language", MESSAGES)
def test_every_message_is_recognised(speak, language):
    """With values in it, alone on a line, and none for another."""

    def filled(text):
        return re.sub(r"\{(\d+)\}", lambda place: str(40 + int(place[1])), text)

    catalogue = MESSAGES[language]
    assert speak(language, list(map(filled, catalogue))) == list(map(filled, catalogue.values()))


def test_messages_are_put_together(speak):
    assert speak("ko", [english for english, _ in LINES]) == [korean for _, korean in LINES]


def test_chinese_parts_are_joined_by_wide_punctuation(speak):
    lines = {
        "was sent: instruction of 9 characters; 64 tokens, 28 forecast": "已发送：9 个字符的指令；64 个 token，预测 28",
        "session: none is called x yet. Connect first_picture to begin it. These exist: a, b.": (
            "会话：还没有名为 x 的会话。请连接“第一张图像”来开始它。现有会话：a, b。"
        ),
    }
    assert speak("zh", list(lines)) == list(lines.values())


def test_other_languages_see_english(speak):
    assert speak("fr", ["seed 7"]) == ["seed 7"]


def test_a_run_reports_in_korean(page, server, korean, load):
    """A report, a notice on a node of the host, and an error."""
    page.open(server.url)
    page.wait_for_workflow(PATIENCE)
    load("A first edit")
    page.wait_for(f"!!{node('KontextSampler')}", seconds=PATIENCE)
    page.evaluate(
        f"""(() => {{
            {widget("KontextSampler", "steps")}.value = 1;
            {widget("CLIPTextEncode", "text")}.value = 'make the circle glimmery';
            window.ended = 0;
            for (const ending of ['execution_success', 'execution_error'])
                app.api.addEventListener(ending, () => window.ended++);
            return app.queuePrompt(0).then(() => true);
        }})()"""
    )
    page.wait_for("window.ended === 1", seconds=PATIENCE)
    assert "시드" in page.evaluate(f"{widget('KontextSampler', 'report')}.value")
    assert "토큰 64개" in page.evaluate(f"{widget('KontextReference', 'report')}.value")
    assert "(glimmery). 효과가 없습니다" in page.evaluate(f"{widget('CLIPTextEncode', 'notice')}.value")
    page.evaluate(f"{widget('KontextSampler', 'cfg')}.value = 2")
    page.evaluate("app.queuePrompt(0).then(() => true)")
    page.wait_for("window.ended === 2", seconds=PATIENCE)
    assert "부정 조건이 연결되지 않았습니다" in page.evaluate(f"{widget('KontextSampler', 'notice')}.value")
