"""Public trace formats: the real files, the odd but legal, and the broken."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.base import InputError
from twin.traffic.readers import FORMATS, load, read_trace, recognise

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write(folder: Path, text: str | bytes, name: str = "t") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("file", "format", "rows"),
    [
        ("AzureLLMInferenceTrace_conv.csv", "azure", 19366),
        ("AzureLLMInferenceTrace_code.csv", "azure", 8819),
        ("mooncake_conversation_trace_0-30min.jsonl.gz", "mooncake", 5719),
        ("mooncake_conversation_trace_head200.jsonl", "mooncake", 200),
        ("burstgpt_v1_head.csv", "burstgpt", 3),
        ("burstgpt_v2_head.csv", "burstgpt", 4),
    ],
)
def test_real_files_are_recognised_by_content(shared: Path, tmp_path: Path, file: str, format: str, rows: int) -> None:
    path = write(tmp_path, (shared / "traces" / file).read_bytes(), "no_hint.bin")
    assert recognise(load(path)) == format
    trace = read_trace(path)
    assert len(trace) == rows
    assert trace.arrival_s[0] == 0
    assert trace.notes == ()


def test_first_rows_of_the_real_files(shared: Path) -> None:
    conv = read_trace(shared / "traces/AzureLLMInferenceTrace_conv.csv")
    assert conv.arrival_s[1] == pytest.approx(50.995169 - 46.68059, abs=1e-12)
    assert (conv.input_tokens[0], conv.output_tokens[-1]) == (374, 183)
    mooncake = read_trace(shared / "traces/mooncake_conversation_trace_head200.jsonl")
    assert mooncake.prefix_hashes is not None
    assert mooncake.prefix_hashes[3] == (0, 42, 43, 44, 45)
    assert mooncake.hash_block_tokens == 512
    burst = read_trace(shared / "traces/burstgpt_v2_head.csv")
    assert burst.arrival_s[:2].tolist() == [0, 51]
    assert burst.session is not None
    assert burst.session[0].startswith("1722ac82")
    assert burst.request_class is not None
    assert set(burst.request_class) == {"Conversation log"}


def test_azure_2024_has_zones_and_may_lack_a_fraction(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,10,6\n"
    trace = read_trace(write(tmp_path, AZURE + rows))
    assert trace.arrival_s.tolist() == pytest.approx([0, 0.99007], abs=1e-12)


def test_seven_digit_fractions_keep_their_order(tmp_path: Path) -> None:
    """Ticks of 100 ns, half a century after the epoch: float64 seconds could not tell these apart."""
    ticks = [3, 1, 2, 0]
    rows = "".join(f"2023-11-16 18:15:46.680590{t},{100 + t},1\n" for t in ticks)
    trace = read_trace(write(tmp_path, AZURE + rows))
    assert trace.input_tokens.tolist() == [100, 101, 102, 103]
    assert trace.arrival_s.tolist() == [0, 1e-7, 2e-7, 3e-7]


def test_unsorted_ties_and_failed_rows(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens\n5,1,1\n3,2,1\n5,3,1\n3,4,1\n1,9,0\n9,0,7\n"
    trace = read_trace(write(tmp_path, text))
    assert trace.input_tokens.tolist() == [2, 4, 1, 3]  # stable: ties keep the row order
    assert trace.arrival_s.tolist() == [0, 0, 2, 2]  # the failed first row does not set the clock
    assert trace.notes == (
        "3 rows were out of order and sorted by arrival",
        "1 row was dropped because they have zero output tokens",
        "1 row was dropped because they have zero input tokens",
    )


def test_burstgpt_failures_are_dropped_and_counted(shared: Path, tmp_path: Path) -> None:
    text = (shared / "traces/burstgpt_v1_head.csv").read_text().strip() + "\n130,ChatGPT,50,0,50,API log\n"
    trace = read_trace(write(tmp_path, text))
    assert len(trace) == 3
    assert "zero output" in trace.notes[0]


def vllm_result() -> dict[str, object]:
    """Keys as vLLM's benchmarks/serve.py writes them; the second request failed."""
    return {
        "date": "20260101-000000",
        "num_prompts": 3,
        "request_rate": "inf",
        "completed": 2,
        "request_throughput": 1.5,
        "input_lens": [100, 200, 300],
        "output_lens": [10, 0, 30],
        "ttfts": [0.1, 0.0, 0.2],
        "itls": [[0.01] * 9, [], [0.01] * 29],
        "start_times": [5000.5, 5000.75, 5002.0],
        "generated_texts": ["a", "", "b"],
        "errors": ["", "Service Unavailable", ""],
    }


@pytest.mark.parametrize("indent", [None, 2])
def test_vllm_detailed_result(tmp_path: Path, indent: int | None) -> None:
    trace = read_trace(write(tmp_path, json.dumps(vllm_result(), indent=indent)))
    assert trace.arrival_s.tolist() == [0, 1.5]
    assert trace.input_tokens.tolist() == [100, 300]
    assert trace.notes == ("1 row was dropped because they have zero output tokens",)


def test_vllm_result_without_details_says_which_flag(tmp_path: Path) -> None:
    result = {k: v for k, v in vllm_result().items() if not isinstance(v, list)}
    with pytest.raises(InputError, match="--save-detailed"):
        read_trace(write(tmp_path, json.dumps(result)))


@pytest.mark.parametrize(
    "text",
    [
        "timestamp,prompt_tokens,completion_tokens\n0,10,1\n0.5,20,2\n",
        "Arrival Time;Input Tokens;Output Tokens\r\n10;10;1\r\n10.5;20;2\r\n",
        "arrival_ms\tISL\tOSL\n1000\t10\t1\n1500\t20\t2\n",
        '\ufeff"time","input_len","output_len"\n"2024-01-01T00:00:00Z","10",1\n2024-01-01T00:00:00.5Z,20,2\n\n\n',
        "\narrived_at,num_prefill_tokens,num_decode_tokens\n\n-1, 10 ,1.0\n-0.5,2e1,2",
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_plain_csv_dialects(tmp_path: Path, text: str, zipped: bool) -> None:
    data = text.encode()
    trace = read_trace(write(tmp_path, gzip.compress(data) if zipped else data))
    assert trace.arrival_s.tolist() == [0, 0.5]
    assert trace.input_tokens.tolist() == [10, 20]
    assert trace.output_tokens.tolist() == [1, 2]
    assert trace.notes == ()


def test_plain_csv_optional_columns_and_a_misspelt_one(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens,session_id,clas\n0,1,1,a,x\n1,2,2,,y\n"
    trace = read_trace(write(tmp_path, text))
    assert trace.session is not None
    assert trace.session.tolist() == ["a", None]
    assert trace.request_class is None
    assert trace.notes == ("columns not used: clas",)


PLAIN = "arrival_s,input_tokens,output_tokens\n0,1,1\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "t: the file is empty"),
        (" \n\n", "t: the file is empty"),
        (b"\xff\xfe\x00", "t: the file is not UTF-8 text"),
        (b"PAR1\x00\x01", "t: the file is not UTF-8 text"),
        (gzip.compress(b"a,b\n" * 99)[:-9], "t: the gzip file is truncated"),
        (gzip.compress(b"a,b\n" * 99)[:10] + b"\xff" * 20, "t: the gzip file is damaged"),
        ("arrival_s,input_tokens,output_tokens\n", "t: the trace has no requests"),
        ("arrival_s,input_tokns,output_tokens\n0,1,1\n", "did you mean 'input_tokens'"),
        (
            "arrival_s,input_tokns,output_tokens\n0,1,1\n",
            "t:1: no column for input tokens; unknown column 'input_tok",
        ),
        ("0,1,1\n1,2,2\n", "t:1: the first line holds no column names"),
        ("arrival_s,isl,osl,osl\n0,1,1,1\n", "t:1: column 'osl' stands twice"),
        (PLAIN + "1,nan,1\n", "t:3: input_tokens is nan"),
        (PLAIN + "\n1,,1\n", "t:4: input_tokens is missing"),
        (PLAIN + "1,-5,1\n", "t:3: input_tokens is -5.0, not a whole number"),
        (PLAIN + "1,5.5,1\n", "t:3: input_tokens is 5.5"),
        (PLAIN + "1,5,inf\n", "t:3: output_tokens is inf"),
        (PLAIN + "1,9e99,1\n", "t:3: input_tokens is 9e+99"),
        (PLAIN + "nan,5,1\n", "t:3: arrival_s is nan, not a finite time"),
        (PLAIN + "soon,5,1\n", "t:3: arrival_s is 'soon', not a number"),
        (PLAIN + "1,5\n", "t:3: expected 3 columns, got 2"),
        (PLAIN + "\n\n1,5,6,7\n", "t:5: expected 3 columns, got 4"),
        (PLAIN.replace("0,1,1", "0,1,0"), "every request has zero"),
        (AZURE + "2023-11-16 18:15:46.68,1,1\nyesterday,1,1\n", "t:3: TIMESTAMP is 'yesterday'"),
        (
            AZURE + "2023-11-16 18:15:46,1,1\n2023-11-16 18:15:47Z,1,1\n",
            "t:3: TIMESTAMP is '2023-11-16 18:15:47Z'",
        ),
        ('{"timestamp": 0, "input_length": 5}\n', "t:1: 'output_length' is missing"),
        ('{"timestamp": 0, "input_length": 5, "output_lenght": 5}\n', "did you mean 'output_lenght'"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5}\n{"time', "t:2: not valid JSON"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 5}\n\n[]',
            "t:3: this line is not a JSON object",
        ),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5}', "t:1: timestamp is nan"),
        ('{"timestamp": 0, "input_length": "5", "output_length": 5}', "t:1: input_length is '5'"),
        ('{"timestamp": 0, "input_length": -5, "output_length": 5}', "t:1: input_length is -5"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1, "x"]}', "t:1: hash_ids"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1, 2]}', "2 prefix hashes"),
        ('{"timestamp": 0, "input_length": ' + "9" * 5000 + ', "output_length": 5}', "t:1: not usable JSON"),
        ('{"some": "thing"}', "t: this JSON is neither"),
        ("[1, 2]", "t: this JSON is neither"),
        ('{\n"input_lens": [1],\n"output_lens": [1,]}', "t:3: not valid JSON"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(write(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_trace(tmp_path / "missing.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match="did you mean 'mooncake'"):
        read_trace(write(tmp_path, PLAIN), format="moncake")


def test_a_bad_row_deep_in_a_file_is_found(tmp_path: Path) -> None:
    good = "".join(f"{n},{n % 7 + 1},3\n" for n in range(20_000))
    with pytest.raises(InputError, match=r"t:20003: input_tokens is 'x', not a number"):
        read_trace(write(tmp_path, PLAIN + good + "5,x,3\n" + good + "6,y,3\n"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["", PLAIN, AZURE, '{"timestamp": 0, "input_length": 5, ', "{"]))
def test_garbage_never_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), head.encode() + data)
    for format in (None, *FORMATS):
        try:
            trace = read_trace(path, format=format)
        except InputError:
            continue
        assert len(trace) > 0
        assert np.isfinite(trace.arrival_s).all()
