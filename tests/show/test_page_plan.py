"""The Plan page in each of its states; every number on it is the run's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_plan
from asked_runs import RunFolder
from streamlit.testing.v1 import AppTest

from twin.cli.main import main
from twin.results.run import to_json
from twin.show import formats, jobs
from twin.show.question import START, Question


def _script() -> None:
    from twin.show.dashboard import shown

    shown("plan")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a plan with risk, growth and an explanation."""
    out = tmp_path_factory.mktemp("plans")
    done = small_plan.make(Question.from_params(small_plan.QUESTION).argv({}), out)
    assert done.returncode == 0, done.stderr
    return out / "plan"


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path))
    shutil.copytree(made, tmp_path / "plan")
    return tmp_path


def opened(**query: str) -> AppTest:
    page = AppTest.from_function(_script, default_timeout=30)
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception, page.exception
    return page


def _plan(runs: Path, name: str = "plan") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs / name / "plan.json").read_text(encoding="utf-8"))
    return found


def _changed(runs: Path, name: str, **changes: Any) -> None:
    shutil.copytree(runs / "plan", runs / name)
    (runs / name / "plan.json").write_text(to_json({**_plan(runs), **changes}), encoding="utf-8")


def _words(page: AppTest) -> str:
    """All that is said, without Markdown's escapes."""
    kinds = (page.markdown, page.caption, page.info, page.success, page.error, page.warning, page.title, page.subheader)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def _numbers(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def _asked(page: AppTest) -> str:
    return page.code[0].value


def test_one_click_would_make_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_RUNS", str(tmp_path))
    page = opened()
    assert "No plan is saved yet" in _words(page)
    assert "--traffic" in _asked(page)
    assert "chat.yaml" in _asked(page)
    assert f"--model {START['model']} --ttft 2s --tpot 50ms --budget 120k/month" in _asked(page)
    asked: list[list[str]] = []
    monkeypatch.setattr(jobs, "start", lambda argv, params: asked.append(argv) or jobs.Job(tmp_path / ".jobs" / "x"))
    page.button[0].click().run()
    assert asked[0][:2] == ["plan", "--traffic"]
    assert page.query_params["job"] == "x"


def test_what_is_typed_is_the_command_line_and_the_link(runs: Path) -> None:
    page = opened()
    page.segmented_control(key="ask_kind").set_value("A number of users").run()
    page.text_input(key="ask_ttft").set_value("p90:300ms").run()
    page.multiselect(key="ask_gpu").set_value(["h100_sxm", "l40s"]).run()
    page.toggle(key="ask_risk").set_value(True).run()
    asked = _asked(page)
    for said in ("--users 500 --requests-per-user-hour 12", "--ttft p90:300ms", "--gpu h100_sxm,l40s", "--risk"):
        assert said in asked
    assert "--traffic" not in asked
    link = {name: str(value) for name, value in page.query_params.items()}
    assert opened(**link).code[0].value == asked


def test_a_link_that_is_wrong_says_so_and_the_form_is_there(runs: Path) -> None:
    page = opened(max_gpus="many")
    assert "--max-gpus" in page.error[0].value.replace("\\", "")
    assert "'many'" in page.error[0].value
    assert page.button


def test_every_fault_of_a_link_is_told_and_the_rest_kept(runs: Path) -> None:
    page = opened(max_gpus="many", worlds="2", price="free", ttft="700ms", budget="20k a month")
    said = "\n".join(error.value.replace("\\", "") for error in page.error)
    for told in ("--max-gpus", "--worlds", "--price", "budget: '20k a month'"):
        assert told in said
    assert "--ttft 700ms" in _asked(page)
    page.text_input(key="ask_budget").set_value("20k/month").run()
    assert not page.error


def test_a_field_is_read_when_it_is_left(runs: Path) -> None:
    page = opened()
    assert not page.button[0].disabled
    page.text_input(key="ask_budget").set_value("20k a month").run()
    assert page.error[0].value.replace("\\", "").startswith("error: budget:")
    assert page.button[0].disabled
    assert "'20k a month'" in _asked(page)
    page.text_input(key="ask_budget").set_value("20k/month").run()
    assert not page.error
    assert not page.button[0].disabled


def test_after_a_refused_upload_no_other_trace_is_planned(runs: Path) -> None:
    page = opened()
    page.file_uploader[0].set_value(("bad.csv", b"when,how_much\n0,1\n", "text/csv")).run()
    assert "bad.csv" in page.error[0].value.replace("\\", "")
    assert not page.code
    assert "Make the plan" not in [button.label for button in page.button]
    other = next(name for name in page.selectbox(key="ask_traffic").options if name != "chat.yaml")
    page.selectbox(key="ask_traffic").set_value(other).run()
    assert not page.error
    assert other in _asked(page)


def test_a_trace_that_is_gone_is_said(runs: Path) -> None:
    page = opened(traffic="gone.csv")
    assert "no trace 'gone.csv' here any more" in _words(page)
    assert page.button


def test_the_numbers_are_those_of_the_run(runs: Path) -> None:
    page, plan = opened(run="plan"), _plan(runs)
    best = next(option for option in plan["options"] if option["id"] == plan["recommended"])
    numbers = _numbers(page)
    assert numbers["Cost"] == formats.usd(best["usd_per_month"], "month")
    assert numbers["In use at the peak"] == formats.share(best["peak_utilisation"])
    assert numbers["P(every promise holds)"] == formats.held(best["risk"])
    for bound in best["bounds"]:
        assert numbers[f"p99 {bound['metric'].upper()}"] == formats.seconds(bound["worst_s"])
    words = _words(page)
    spread = best["risk"]["usd_per_month"]
    assert f"{formats.usd(spread['p5'])} – {formats.usd(spread['p95'])}" in words
    assert best["vllm_command"] in [code.value for code in page.code]
    table = page.dataframe[0].value
    assert list(table["USD/month"]) == [formats.usd(option["usd_per_month"]) for option in plan["options"]]


def test_the_report_is_that_of_the_command_with_its_options(runs: Path) -> None:
    _changed(runs, "now", fixed={})
    from twin.show.pages import plan_downloads

    page = opened(run="plan")
    assert list(page.selectbox(key="report_today").options) == ["now"]
    page.text_input(key="report_start").set_value("January").run()
    assert "--start is a month" in page.error[0].value.replace("\\", "")
    assert not page.get("download_button")[0].proto.label.startswith("Download the report")
    page.text_input(key="report_start").set_value("2027-03")
    page.text_input(key="report_name").set_value("Support chat").run()
    assert not page.error
    asked = plan_downloads.Asked(start="2027-03", name="Support chat", rack_kw=17.0)
    said = plan_downloads.report_bytes("plan", "md", "en", asked)
    out = runs / "report.md"
    flags = ["--start", "2027-03", "--name", "Support chat", "--rack-kw", "17", "--format", "md", "--out", str(out)]
    assert main(["report", str(runs / "plan"), *flags]) == 0
    assert said == out.read_bytes()
    assert b"Support chat" in said
    assert b"March 2027" in said or b"2027-03" in said


def test_a_link_names_the_option(runs: Path) -> None:
    plan = _plan(runs)
    other = plan["options"][-1]
    page = opened(run="plan", option=other["id"])
    assert _numbers(page)["Cost"] == formats.usd(other["usd_per_month"], "month")
    assert other["vllm_command"] in [code.value for code in page.code]


def test_each_view_is_drawn_and_named_in_the_link(runs: Path) -> None:
    plan = _plan(runs)
    best = next(option for option in plan["options"] if option["id"] == plan["recommended"])
    said = {
        "Latency and load": "As the trace was replayed",
        "Where the time goes": plan["explanation"][0]["batch"]["first_limit"],
        "Money": formats.usd(best["money"]["usd_per_month"], "month"),
        "Risk": best["risk"]["text"],
        "Evidence": formats.usd(best["usd_per_gpu_hour"]["value"], "GPU hour"),
        "Ruled out": f"{plan['screened']:,} configurations screened in closed form, {plan['simulated']:,} simulated",
    }
    page = opened(run="plan")
    for view, words in said.items():
        page.segmented_control(key="view").set_value(view).run()
        assert not page.exception, (view, page.exception)
        assert words in _words(page), view
        assert words in _words(opened(run="plan", view=view)), view


def test_against_a_baseline_differences_are_those_of_twin_compare(runs: Path) -> None:
    plan = _plan(runs)
    dearer = [{**option, "usd_per_month": option["usd_per_month"] + 1000} for option in plan["options"]]
    _changed(runs, "plan-2", options=dearer)
    page = opened(run="plan", baseline="plan-2")
    cost = next(metric for metric in page.metric if metric.label == "Cost")
    assert cost.delta == "-$1,000, better"
    page = opened(run="plan", baseline="plan-2", view="Baseline")
    table = page.dataframe[-1].value.set_index("figure")
    assert table.loc["usd per month", "difference"] == -1000


def test_outside_of_the_calibrated_range_is_marked(runs: Path) -> None:
    plan = _plan(runs)
    outside = [{**o, "calibrated": "outside", "outside_because": ["KV cache in fp8"]} for o in plan["options"]]
    _changed(runs, "plan-2", options=outside)
    words = _words(opened(run="plan-2"))
    assert "▲ outside of the calibrated range" in words
    assert "KV cache in fp8" in words


def test_a_plan_without_risk_or_explanation_says_what_was_not_asked(runs: Path) -> None:
    plan = _plan(runs)
    bare = [{k: v for k, v in o.items() if k not in ("risk", "money")} for o in plan["options"]]
    lacking = {k: None for k in ("load_curve", "explanation", "risk")}
    _changed(runs, "plan-2", options=bare, **lacking)
    (runs / "plan-2" / "timeline.json").unlink()
    assert _numbers(opened(run="plan-2"))["P(every promise holds)"] == "not asked"
    for view, words in {
        "Latency and load": "No latency against load",
        "Where the time goes": "was not asked",
        "Money": "No bill",
        "Risk": "was not asked",
    }.items():
        assert words in _words(opened(run="plan-2", view=view)), view


def test_when_nothing_holds_it_says_what_binds_and_what_came_nearest(runs: Path) -> None:
    plan = _plan(runs)
    near = {**plan["options"][0], "names": [], "misses": ["p99 TTFT is 1,200 ms, over 1,000 ms"]}
    binding = "The promise of TTFT binds."
    _changed(runs, "plan-2", options=[], recommended=None, near_misses=[near], binding=binding, load_curve=None)
    page = opened(run="plan-2")
    words = _words(page)
    assert binding in words
    assert near["misses"][0] in words
    assert _numbers(page)["Cost"] == formats.usd(near["usd_per_month"], "month")
    assert not page.success


def test_when_nothing_could_be_simulated_it_says_why(runs: Path, run_folder: RunFolder) -> None:
    shutil.copytree(run_folder("nowhere"), runs / "plan-2")
    page, plan = opened(run="plan-2"), _plan(runs, "plan-2")
    words = _words(page)
    assert "Nothing holds" in words
    assert plan["binding"] in words
    assert "0 simulated" in words
    assert list(page.dataframe[-1].value["why"]) == [item["reason"] for item in plan["rejected"]]
    assert not page.metric
    assert sorted(opened().dataframe[0].value["Answer"])[-1] == "nothing holds"


def test_a_stopped_search_shows_its_front(runs: Path) -> None:
    _changed(runs, "plan-2", options=[], recommended=None, near_misses=[], interrupted=True, load_curve=None)
    assert "stopped" in _words(opened(run="plan-2")).lower()


@pytest.mark.parametrize("name", ["nowhere", "../plan", "/etc"])
def test_a_run_that_is_not_there_is_one_sentence(runs: Path, name: str) -> None:
    page = opened(run=name)
    assert page.error[0].value.replace("\\", "").startswith(f"error: unknown run '{name}'")


def test_a_torn_run_is_said_and_hides_no_other(runs: Path) -> None:
    shutil.copytree(runs / "plan", runs / "plan-2")
    (runs / "plan-2" / "plan.json").write_text("{", encoding="utf-8")
    assert "not whole JSON" in _words(opened(run="plan-2"))
    table = opened().dataframe[0].value
    assert sorted(table["Plan"]) == ["plan", "plan-2"]


@pytest.fixture
def job(runs: Path) -> Iterator[jobs.Job]:
    """One that ended; tests write what it said."""
    folder = runs / ".jobs" / "j"
    folder.mkdir(parents=True)
    about = {"argv": ["plan", "--model", "x"], "question": small_plan.QUESTION, "pid": 2**22 + 1, "created": 0.0}
    (folder / "job.json").write_text(json.dumps(about), encoding="utf-8")
    return jobs.Job(folder)


def _said(job: jobs.Job, stderr: str, stdout: str = "") -> None:
    (job.folder / "stderr").write_text(stderr, encoding="utf-8")
    (job.folder / "stdout").write_text(stdout, encoding="utf-8")


def test_a_job_that_failed_shows_the_sentence_over_its_question(job: jobs.Job) -> None:
    _said(job, "", json.dumps({"error": {"message": "unknown model 'x'; did you mean 'y'?"}}))
    page = opened(job=job.id)
    assert page.error[0].value.replace("\\", "") == "error: unknown model 'x'; did you mean 'y'?"
    assert "--request-rate 3 --input-len 800" in _asked(page)


def test_a_job_that_failed_is_not_among_those_being_made(job: jobs.Job) -> None:
    _said(job, "", json.dumps({"error": {"message": "unknown model"}}))
    page = opened()
    titles = [element.value for element in page.subheader]
    assert "Plans being made" not in titles
    assert "Plans that did not come to their end" in titles
    assert "failed** · made-up traffic · Qwen/Qwen3-8B: unknown model" in _words(page)


def test_a_link_to_a_job_that_is_gone_leads_back(runs: Path) -> None:
    page = opened(job="gone")
    assert page.error[0].value.replace("\\", "") == (
        "error: gone: no such plan is being made; look among the saved plans"
    )
    assert len(page.get("page_link")) == 1


def test_a_job_that_is_done_is_its_run(job: jobs.Job, runs: Path) -> None:
    _said(job, '{"run": "plan"}\n', (runs / "plan" / "plan.json").read_text(encoding="utf-8"))
    page = opened(job=job.id)
    assert page.title[0].value == "plan"
    assert page.query_params["run"] == "plan"


def test_a_job_that_could_simulate_nothing_says_why(job: jobs.Job, runs: Path) -> None:
    plan = {**_plan(runs), "options": [], "near_misses": [], "recommended": None, "binding": "No GPU has the memory."}
    _said(job, "", to_json(plan))
    words = _words(opened(job=job.id))
    assert "Nothing holds." in words
    assert "No GPU has the memory." in words


def test_a_job_under_way_shows_stages_front_and_a_way_to_stop(
    job: jobs.Job, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = json.dumps({"front": _plan(runs)["front"]})
    _said(job, f'{{"stage": "busiest minutes", "done": 3, "total": 12}}\n{front}\na note\n')
    monkeypatch.setattr(jobs.Job, "state", jobs.State("running"))
    stopped: list[str] = []
    monkeypatch.setattr(jobs.Job, "stop", lambda self: stopped.append(self.id))
    page = opened(job=job.id)
    assert [bar.proto.text for bar in page.get("progress")] == ["busiest minutes: 3 of at most 12 simulations"]
    words = _words(page)
    assert "a note" in words
    assert "on the busiest minutes" in words
    assert "Risk comes last" in words  # the question of small_plan asks for it
    assert "without --risk" not in words
    assert "over the whole trace" not in words
    page.button[0].click().run()
    assert stopped == [job.id]


def test_a_stopped_job_can_be_gone_on_with(job: jobs.Job, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / ".plan-abc").mkdir()
    _said(job, '{"search": ".plan-abc"}\n', json.dumps({"error": {"message": "interrupted"}}))
    (job.folder / "stop").touch()
    monkeypatch.setattr(jobs.Job, "resume", lambda self: jobs.Job(runs / ".jobs" / "next"))
    page = opened(job=job.id)
    page.button[0].click().run()
    assert page.query_params["job"] == "next"
