from gateway.story import clock, render, speaker_name
from gateway.subtitles import as_srt, as_text, as_vtt

SEGMENTS = [
    {"speaker": "SPEAKER_00", "start_s": 0.0, "end_s": 1.9996, "text": "one --> two\n\nthree"},
    {"speaker": "SPEAKER_01", "start_s": 3725.5, "end_s": 3726.0, "text": "<b> & more"},
]


def test_a_cue_stays_one_cue() -> None:
    assert as_srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:02,000\n[SPEAKER_00] one → two three\n\n"
        "2\n01:02:05,500 --> 01:02:06,000\n[SPEAKER_01] <b> & more\n"
    )


def test_webvtt_is_escaped() -> None:
    assert as_vtt(SEGMENTS).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n")
    assert as_vtt(SEGMENTS).endswith("<v SPEAKER_01>&lt;b&gt; &amp; more</v>\n")


def test_text() -> None:
    assert as_text([{"text": " a "}, {"text": "b"}]) == "a b\n"


def test_clock_and_names() -> None:
    assert clock(0) == "0:00"
    assert clock(61.9) == "1:01"
    assert clock(3661) == "1:01:01"
    assert speaker_name("SPEAKER_01") == "Speaker 2"
    assert speaker_name("Anna") == "Anna"


def test_a_long_recording_is_linked() -> None:
    story = {
        "id": "0",
        "filename": '"><script>',
        "created_at": "2026-01-01T00:00:00Z",
        "duration_s": 1,
        "language": "en",
        "segments": [],
        "speakers": [],
        "models": {},
    }
    page = render(story, {}, None, "audio/wav")
    assert 'src="audio"' in page
    assert '"><script>' not in page
    assert 'src="data:audio/wav;base64,' in render(story, {}, b"RIFF", "audio/wav")
