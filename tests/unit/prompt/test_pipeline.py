import asyncio
import json
from typing import Any

import pytest

from narrative.errors import InvalidParameter, ModelOutputInvalid, ServiceUnavailable
from services.prompt.engine import Line, Progress, SpeakerScene
from services.prompt.templates import templates

GIRL = "A girl is sitting on the green grass."
DOG = "A big dog sleeps near the old tree."
GOOD = {"scene": "a girl sitting on the green grass", "style": "watercolor", "details": ["big dog"]}
INVENTED = {"scene": "an old fisherman mending his net", "style": "watercolor", "details": []}


def line(text: str, speaker: str = "SPEAKER_00", number: int = 0) -> Line:
    return Line(number, speaker, text)


async def test_describe_runs_the_three_stages(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(GOOD)
    described = await make_pipeline(llm).describe(
        "SPEAKER_00", [line("a girl is sitting on the green grass"), line(DOG)], "en"
    )
    assert [item.normalized_text for item in described.lines] == [GIRL, DOG]
    assert described.text == f"{GIRL} {DOG}"
    assert described.scene.details == ("big dog",)
    assert described.visual_prompt.startswith("a girl sitting on the green grass, big dog, watercolor, detailed")
    assert len(llm.asked) == 1


async def test_lines_with_nothing_to_see_are_not_shown(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(GOOD)
    await make_pipeline(llm).describe("SPEAKER_00", [line("Yes, I think so."), line(GIRL), line("Thank you!")], "en")
    assert llm.asked[0][0][-1] == {"role": "user", "content": GIRL}


async def test_someone_who_only_talks_is_seen_talking(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(INVENTED)
    described = await make_pipeline(llm).describe("SPEAKER_00", [line("Yes, I agree with you.")], "en")
    assert described.scene == templates("en").only_talk
    assert llm.asked == []


@pytest.mark.parametrize("text", [" \n ", ".", "...", "♪", "?!"])
@pytest.mark.parametrize("language", ["en", "ru"])
async def test_someone_who_says_no_word_is_seen_talking(
    text: str, language: str, make_pipeline: Any, fake_llm: Any
) -> None:
    llm = fake_llm(INVENTED)
    pipeline = make_pipeline(llm, languages=["en", "ru"])
    described = await pipeline.describe("SPEAKER_00", [line(text)], language)
    assert described.scene == templates(language).only_talk
    assert described.visual_prompt.startswith(templates(language).only_talk.scene)
    assert (described.text, described.lines[0].normalized_text) == ("", "")
    assert llm.asked == []


async def test_speakers_who_say_no_word_do_not_end_the_others_scenes(make_pipeline: Any, fake_llm: Any) -> None:
    lines = [line(GIRL, "A", 0), line(".", "B", 1), line(GIRL, "C", 2)]
    items = [item async for item in make_pipeline(fake_llm(GOOD)).process(lines, "en")]
    scenes = {item.speaker: item.scene for item in items if isinstance(item, SpeakerScene)}
    assert scenes.keys() == {"A", "B", "C"}
    assert scenes["B"] == templates("en").only_talk


async def test_one_speaker_may_talk_for_four_hours(make_pipeline: Any, fake_llm: Any) -> None:
    lines = [line("Yes, I think so.", number=number) for number in range(4 * 3600)]
    described = await make_pipeline(fake_llm(GOOD)).describe("SPEAKER_00", [*lines, line(GIRL)], "en")
    assert described.scene.scene == GOOD["scene"]
    assert len(described.lines) == 4 * 3600 + 1


async def test_a_given_style_replaces_the_chosen_one(make_pipeline: Any, fake_llm: Any) -> None:
    described = await make_pipeline(fake_llm(GOOD)).describe("SPEAKER_00", [line(GIRL)], "en", "oil painting")
    assert described.scene.style == "oil painting"
    assert ", oil painting, detailed illustration" in described.visual_prompt


@pytest.mark.parametrize("broken", ["not json at all", '{"scene": "a girl', json.dumps(INVENTED)])
async def test_a_broken_answer_is_asked_for_once_more(broken: str, make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(broken, GOOD)
    scene = await make_pipeline(llm, wording="free").extract_scene([GIRL, DOG], "en")
    assert scene.scene == GOOD["scene"]
    (first, free), (second, chosen) = llm.asked
    assert second[: len(first)] == first
    assert second[-2] == {"role": "assistant", "content": broken}
    assert free["properties"]["scene"]["type"] == "string"
    assert "a girl sitting on the green grass" in json.dumps(chosen)


async def test_the_second_request_names_the_fault(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(INVENTED, GOOD)
    await make_pipeline(llm, wording="free").extract_scene([GIRL], "en")
    assert "does not mention" in llm.asked[1][0][-1]["content"]
    assert "fisherman" in llm.asked[1][0][-1]["content"]


async def test_two_broken_answers_are_an_error(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(INVENTED)
    with pytest.raises(ModelOutputInvalid, match="twice"):
        await make_pipeline(llm).extract_scene([GIRL], "en")
    assert len(llm.asked) == 2


async def test_an_error_of_the_llm_server_is_not_asked_again(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(ServiceUnavailable("down"))
    with pytest.raises(ServiceUnavailable):
        await make_pipeline(llm).extract_scene([GIRL], "en")
    assert len(llm.asked) == 1


async def test_normalising_by_rule_asks_nobody(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm("unused")
    assert await make_pipeline(llm).normalize(["hello ,there"], "ru") == ["Hello, there."]
    assert llm.asked == []


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ({"text": "What time does the train leave?"}, "What time does the train leave?"),
        ({"text": "What time does the fast train leave, my friend?"}, "What time dose the trian leave."),
        ("no json", "What time dose the trian leave."),
    ],
)
async def test_the_llm_may_mend_words_but_not_add_any(
    answer: Any, taken: str, make_pipeline: Any, fake_llm: Any
) -> None:
    pipeline = make_pipeline(fake_llm(answer), normalize_with_llm=True)
    assert await pipeline.normalize(["what time dose the trian leave"], "en") == [taken]


async def test_process_describes_speakers_at_the_same_time(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(GOOD)
    lines = [line(text, f"SPEAKER_{i:02}", i) for i in range(8) for text in (GIRL, DOG)]
    items = [item async for item in make_pipeline(llm).process(lines, "en")]
    assert {item.speaker for item in items if isinstance(item, SpeakerScene)} == {f"SPEAKER_{i:02}" for i in range(8)}
    assert [item.fraction for item in items if isinstance(item, Progress)] == [i / 8 for i in range(9)]
    assert llm.most_running == 8


async def test_a_caller_that_goes_away_stops_the_rest(make_pipeline: Any) -> None:
    class Endless:
        asked = cancelled = 0

        async def ask(self, messages: Any, schema: Any) -> Any:
            self.asked += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    llm = Endless()
    stream = make_pipeline(llm).process([line(GIRL, "A"), line(GIRL, "B")], "en")
    assert await anext(stream) == Progress("prompt", 0.0)
    waiting = asyncio.ensure_future(anext(stream))
    while llm.asked < 2:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert llm.cancelled == 2


@pytest.mark.parametrize(
    ("lines", "language", "style", "field"),
    [
        ([], "en", "", "lines"),
        ([line(GIRL)], "fr", "", "language"),
        ([line(GIRL)], "", "", "language"),
        ([line(GIRL)], "ru", "", "language"),
        ([line("a" * 4001)], "en", "", "lines"),
        ([line(GIRL)] * 20_001, "en", "", "lines"),
        ([line(GIRL, "SPEAKER_01")], "en", "", "lines"),
        ([line(GIRL)], "en", "x" * 201, "style"),
    ],
)
async def test_bad_requests_name_the_field(
    lines: list[Line], language: str, style: str, field: str, make_pipeline: Any, fake_llm: Any
) -> None:
    llm = fake_llm(GOOD)
    with pytest.raises(InvalidParameter) as caught:
        await make_pipeline(llm).describe("SPEAKER_00", lines, language, style)
    assert caught.value.field == field
    assert llm.asked == []


async def test_a_long_text_is_shown_by_its_lines_with_most_to_see(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm(GOOD)
    dull = [f"A cat number{i}." for i in range(100)]
    await make_pipeline(llm, max_text_chars=200).extract_scene([*dull, GIRL, DOG], "en")
    shown = llm.asked[0][0][-1]["content"]
    assert GIRL in shown
    assert DOG in shown
    assert len(shown) <= 200 + shown.count("\n")


async def test_russian_is_written_with_russian_templates(make_pipeline: Any, fake_llm: Any) -> None:
    llm = fake_llm({"scene": "девочка сидит на траве", "style": "акварель", "details": []})
    pipeline = make_pipeline(llm, wording="free", languages=["en", "ru"])
    described = await pipeline.describe("SPEAKER_00", [line("девочку видно: она сидит на траве")], "ru")
    assert described.visual_prompt.endswith("высокое качество")
    assert "по-русски" in llm.asked[0][0][0]["content"]
