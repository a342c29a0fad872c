"""What a report says: every figure stands in the run, follows it, and the decision fits what was found."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from asked_runs import RunFolder, changed

from twin.base import InputError
from twin.results.run import Run, read_run
from twin.show.report.blocks import Cell, Facts, Paragraph, Report, Table
from twin.show.report.content import report
from twin.show.report.forms import plain
from twin.show.words import words

SAY = words("en")
CASES = [("plain", None), ("risk", None), ("risk", "fixed"), ("risk", "late"), ("infeasible", None), ("pools", None)]
CASES += [("fixed", None), ("late", None)]
START = "2027-01"


def made(run_folder: RunFolder, which: str, today: str | None = None, /, **asked: Any) -> tuple[Report, dict[str, Any]]:
    """A report, and the JSON that its paths start from."""
    run, now = read_run(run_folder(which)), None if today is None else read_run(run_folder(today))
    return report(run, today=now, **asked), roots(run, now, asked)


def roots(run: Run, today: Run | None, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "plan": run.plan,
        "manifest": run.manifest,
        "flags": run.flags,
        "scenario": run.scenario,
        "today": None if today is None else today.plan,
        "asked": {"rack_kw": 40.0, "rack_named": "rack_kw" in asked, "start": None, "name": None} | asked,
    }


def cells(thing: object) -> Iterator[Cell]:
    """All of them, wherever they hide."""
    if isinstance(thing, Cell):
        yield thing
    elif isinstance(thing, tuple | list):
        for item in thing:
            yield from cells(item)
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from cells(getattr(thing, field.name))


def stands_at(path: str, root: dict[str, Any]) -> Any:
    """The value of a path, or of a formula of paths: written apart from the report's own arithmetic."""
    if match := re.fullmatch(r"(\w+)\((.*)\)", path):
        if match[1] == "key":
            return re.split(r"[.\]]", match[2])[-1]
        parts = re.findall(r"(?:[^,()]|\([^()]*\))+", match[2])
        values = [stands_at(part.strip(), root) for part in parts]
        return None if None in values else FORMULAS[match[1]](*values)
    here: Any = root
    for key, at in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        here = here[int(at)] if at else here.get(key) if isinstance(here, dict) else None
        if here is None:
            return None
    return here


def later(start: str, months: float) -> str:
    year, month = map(int, start.split("-"))
    for _ in range(int(months)):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return f"{year}-{month:02d}"


def over(room: float, growth: float, planned: float, months: int) -> int | None:
    month = max(math.floor(math.log(room) / math.log1p(growth) + planned) + 1, 0)
    return month if month <= months else None


FORMULAS: dict[str, Callable[..., Any]] = {
    "sum": lambda *values: sum(values),
    "minus": lambda a, b: a - b,
    "ratio": lambda a, b: a / b,
    "racks": lambda nodes, kw, rack: math.ceil(nodes / (rack // (kw / nodes))) if rack >= kw / nodes else None,
    "budget": lambda text: round(float(text.removesuffix("/h")) * 730, 6) if text.endswith("/h") else None,
    "first_below": lambda values, least: min((at for at in range(len(values)) if values[at] < least), default=None),
    "month_above": lambda room, growth, planned, months: over(room, growth, planned, months),
    "percentile": lambda a: 100 * a,
    "month_of": later,
    "short_name": lambda path: Path(path).name,
}


def same(a: Any, b: Any) -> bool:
    return bool(a == pytest.approx(b, rel=1e-9)) if isinstance(a, float) else bool(a == b)


def verdict(found: Report) -> str:
    return next(
        plain(b.text, SAY) for b in found.sections[0].blocks if isinstance(b, Paragraph) and b.kind == "verdict"
    )


def facts(found: Report) -> dict[str, str]:
    block = next(b for b in found.sections[0].blocks if isinstance(b, Facts))
    return {plain(label, SAY): plain(text, SAY) for label, text in block.rows}


def table(found: Report, key: str) -> list[list[str]]:
    block = next(b for s in found.sections for b in s.blocks if isinstance(b, Table) and b.key == key)
    return [[plain(cell, SAY) for cell in row] for row in (block.head, *(row.cells for row in block.rows))]


@pytest.mark.parametrize(("name", "today"), CASES)
def test_every_figure_stands_where_it_says(run_folder: RunFolder, name: str, today: str | None) -> None:
    found, root = made(run_folder, name, today, start=START)
    seen = list(cells(found))
    wrong = [cell for cell in seen if not same(cell.value, stands_at(cell.path, root))]
    assert not wrong
    assert len(seen) > (60 if name in ("infeasible", "late") else 100)
    assert [section.key for section in found.sections] == [
        *("decision", "demand", "options", "money", "risk", "power", "assumptions", "validity", "reproduce")
    ]


@pytest.mark.parametrize("name", ["risk", "pools"])
def test_a_changed_figure_is_said(run_folder: RunFolder, name: str) -> None:
    """Each number that the report quotes is moved a little in the run, one at a time; the report must follow."""
    run = read_run(run_folder(name))
    quoted = {c.path for c in cells(report(run)) if isinstance(c.value, int | float) and c.path.startswith("plan.")}
    assert len(quoted) > 100
    for path in sorted(quoted)[::4]:
        plan = copy.deepcopy(run.plan)
        *above, last = re.findall(r"[^.\[\]]+", path)[1:]
        here: Any = plan
        for key in above:
            here = here[int(key)] if isinstance(here, list) else here[key]
        moved = here[last] + 1 if isinstance(here[last], int) else here[last] * 1.001 + 1e-9
        here[last] = moved
        assert any(c.path == path and c.value == moved for c in cells(report(replace(run, plan=plan)))), path


def test_the_decision_of_a_plan_with_risk(run_folder: RunFolder) -> None:
    found, root = made(run_folder, "risk", "fixed", start=START, name="Chat")
    plan = root["plan"]
    best = next(o for o in plan["options"] if o["id"] == plan["recommended"])
    assert best["gpu"] in verdict(found)
    said = facts(found)
    cheapest = min(best["money"]["ways"].items(), key=lambda way: way[1]["tco_usd"])
    assert f"${cheapest[1]['tco_usd']:,.0f}" in said["Way to pay"]
    assert f"${best['risk']['usd_per_month']['p95']:,.0f}" in said["Cost"]
    assert f"{plan['options'][0]['risk']['worlds']} possible worlds" in said["Confidence"]
    month = best["risk"]["growth"]["breaks_in_month"]
    assert f"as planned a promise breaks: month {month}, " in said["By when"]
    assert later(START, month)[:4] in said["By when"]
    held = best["risk"]["growth"]["probability_held_by_month"]
    unsure = next(at for at, share in enumerate(held) if share < 0.9)
    assert unsure < month
    assert f"the next step is due: month {unsure}, " in said["By when"]
    assert "as then less than 90% of the possible worlds hold" in said["By when"]
    rows = table(found, "decision")
    assert len(rows) >= 1 + 3
    assert rows[-1][0] == "do nothing"
    assert rows[-1][1].endswith(root["today"]["options"][0]["gpu"])
    assert plain(found.title, SAY) == "Chat: capacity plan"


def test_at_least_three_options_even_of_a_small_plan(run_folder: RunFolder, tmp_path: Path) -> None:
    def only_one(plan: dict[str, Any]) -> None:
        plan["options"] = [o for o in plan["options"] if o["id"] == plan["recommended"]]
        plan["near_misses"] = []

    run = read_run(changed(run_folder("plain"), tmp_path / "one", only_one))
    rows = table(report(run), "options")
    assert len(rows[0]) == 1 + 3
    assert rows[0][-1] == "do nothing"
    assert table(report(run), "decision")[-1][1] == "no fleet is known"


def test_without_risk_nothing_is_claimed(run_folder: RunFolder) -> None:
    found, _ = made(run_folder, "plain")
    assert facts(found)["Confidence"] == "not assessed"
    assert not any("--" in text for text in facts(found).values())
    assert "no growth was given" in facts(found)["By when"]
    assert "all" not in {row[5] for row in table(found, "decision")}


def test_nothing_holds(run_folder: RunFolder) -> None:
    found, root = made(run_folder, "infeasible")
    assert "Nothing holds" in verdict(found)
    texts = [plain(b.text, SAY) for b in found.sections[0].blocks if isinstance(b, Paragraph)]
    assert any(root["plan"]["binding"] in text for text in texts)
    near = root["plan"]["near_misses"][0]
    assert [row[0] for row in table(found, "decision")][1] == "near miss"
    said = next(row for row in table(found, "options") if row[0] == "misses")[1]
    for bound in near["bounds"]:
        late = bound["worst_s"] > bound["seconds"]
        assert (f"p99 {bound['metric'].upper()}: " in said) == late


def test_nothing_could_even_be_simulated(run_folder: RunFolder) -> None:
    found, root = made(run_folder, "nowhere")
    assert "Nothing holds" in verdict(found)
    texts = [plain(b.text, SAY) for section in found.sections for b in section.blocks if isinstance(b, Paragraph)]
    assert any(root["plan"]["binding"] in text for text in texts)
    assert any("No fleet was found" in text for text in texts)
    assert not any("lies outside" in text or "older" in text for text in texts)


def test_a_gamble_is_called_one(run_folder: RunFolder, tmp_path: Path) -> None:
    def unsure(plan: dict[str, Any]) -> None:
        best = next(o for o in plan["options"] if o["id"] == plan["recommended"])
        best["risk"]["probability_held"] = {"value": 0.5, "stderr": 0.1}

    found = report(read_run(changed(run_folder("risk"), tmp_path / "unsure", unsure)))
    assert verdict(found).startswith("A gamble: ")
    assert "50% ± 10%" in facts(found)["Confidence"]


def test_a_search_that_was_stopped_says_so(run_folder: RunFolder, tmp_path: Path) -> None:
    def stopped(plan: dict[str, Any]) -> None:
        plan.update(interrupted=True, options=[], near_misses=[], recommended=None, binding=None)

    found = report(read_run(changed(run_folder("plain"), tmp_path / "stopped", stopped)))
    assert verdict(found).startswith("No decision yet")
    warnings = [b for b in found.sections[0].blocks if isinstance(b, Paragraph) and b.kind == "warning"]
    assert "stopped after" in plain(warnings[0].text, SAY)


def test_what_is_deployed(run_folder: RunFolder) -> None:
    assert verdict(made(run_folder, "fixed")[0]) == "What is deployed holds: 1 × l40s. No alternatives were looked at."
    late, root = made(run_folder, "late")
    assert verdict(late) == "What is deployed does not hold."
    with_today, _ = made(run_folder, "risk", "late")
    assert "misses its promises already" in facts(with_today)["By when"]
    assert root["plan"]["fixed"]["holds"] is False


def test_a_folder_may_move_and_an_old_run_lacks_parts(run_folder: RunFolder, tmp_path: Path) -> None:
    def old(plan: dict[str, Any]) -> None:
        for option in plan["options"]:
            option.pop("money"), option.pop("power", None), option.pop("risk", None)
        for name in ("risk", "load_curve", "front", "explanation", "growth"):
            plan.pop(name, None)

    moved = changed(run_folder("risk"), tmp_path / "elsewhere", old)
    (moved / "flags.json").unlink()
    found = report(read_run(moved))
    texts = [plain(b.text, SAY) for s in found.sections for b in s.blocks if isinstance(b, Paragraph)]
    assert any("has no bill" in text for text in texts)
    assert any("no figures of power" in text for text in texts)


def test_the_command_is_the_question(run_folder: RunFolder) -> None:
    found, root = made(run_folder, "pools")
    commands = [b for b in found.sections[-1].blocks if hasattr(b, "lines")]
    asked = "\n".join(plain(line, SAY) for line in commands[0].lines)
    assert asked.startswith("twin plan \\\n")
    assert "--class 'short:input<=600,ttft=150ms,tpot=12ms' \\" in asked
    assert "--request-rate 6 \\" in asked
    assert "--seed 0" in asked
    best = next(o for o in root["plan"]["options"] if o["id"] == root["plan"]["recommended"])
    parts = best.get("pools") or [best]
    assert len(commands) == 1 + len(parts)
    for command, part in zip(commands[1:], parts, strict=True):
        assert plain(command.lines[0], SAY).replace("\\\n", "").split() == part["vllm_command"].split()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"start": "2027-13"}, "--start is a month"),
        ({"rack_kw": 0.0}, "--rack-kw is the power"),
        ({"rack_kw": float("nan")}, "--rack-kw is the power"),
        ({"lang": "fr"}, "unknown language 'fr'"),
        ({"today": "risk"}, "--today takes a run of twin plan --fixed"),
    ],
)
def test_what_is_no_question(run_folder: RunFolder, asked: dict[str, Any], why: str) -> None:
    if "today" in asked:
        asked = {"today": read_run(run_folder(asked["today"]))}
    with pytest.raises(InputError, match=re.escape(why)):
        report(read_run(run_folder("risk")), **asked)


def test_another_model_of_today_is_said(run_folder: RunFolder, tmp_path: Path) -> None:
    def other(plan: dict[str, Any]) -> None:
        plan["model"] = "another"

    today = read_run(changed(run_folder("fixed"), tmp_path / "other", other))
    assert "What is deployed serves another model: another." in warned(
        report(read_run(run_folder("risk")), today=today)
    )
    assert json.loads((run_folder("fixed") / "plan.json").read_text())["model"] != "another"


def warned(found: Report) -> list[str]:
    return [plain(b.text, SAY) for b in found.sections[0].blocks if isinstance(b, Paragraph) and b.kind == "warning"]


def recommended(plan: dict[str, Any]) -> dict[str, Any]:
    return next(option for option in plan["options"] if option["id"] == plan["recommended"])


@pytest.mark.parametrize(
    ("kind", "how", "aside"),
    [("on_demand", "Rent (on demand)", "reserved it would be $"), ("spot", "Rent (spot)", "reserved it would be $")],
)
def test_what_was_asked_is_what_is_paid(run_folder: RunFolder, tmp_path: Path, kind: str, how: str, aside: str) -> None:
    def asked(plan: dict[str, Any]) -> None:
        for option in plan["options"]:
            option["money"]["kind"] = kind

    folder = changed(run_folder("plain"), tmp_path / kind, asked)
    flags = json.loads((folder / "flags.json").read_text())
    (folder / "flags.json").write_text(json.dumps(flags | {"price": kind}))
    run = read_run(folder)
    assert run.plan is not None
    ways = recommended(dict(run.plan))["money"]["ways"]
    found = report(run)
    assert verdict(found) == f"{how} 1 × l40s."
    said = facts(found)
    assert f"as asked: ${ways[kind]['tco_usd']:,.0f} over 36 months" in said["Way to pay"]
    assert aside in said["Way to pay"]
    assert said["Cost"].count("a month") == 1
    assert f"${ways[kind]['tco_usd']:,.0f}" in table(found, "decision")[1][3]


def test_the_cost_names_both_prices(run_folder: RunFolder) -> None:
    found, root = made(run_folder, "plain")
    best = recommended(root["plan"])
    said = facts(found)["Cost"]
    assert f"${best['money']['ways']['reserved']['usd_per_month']:,.0f} a month today (reserved)" in said
    assert f"${best['usd_per_month']:,.0f} a month (on demand), at which the options were compared" in said


def test_the_next_step_is_due_when_head_room_is_used_up(run_folder: RunFolder, tmp_path: Path) -> None:
    def sure(plan: dict[str, Any]) -> None:
        grown = recommended(plan)["risk"]["growth"]
        grown["probability_held_by_month"] = [1.0] * 37
        (turn,) = (turn for turn in plan["risk"]["would_change"] if turn["input"] == "traffic")
        assert "left free" in turn["text"]
        turn["factor"] = 1.05**4 * 1.001

    found = report(read_run(changed(run_folder("risk"), tmp_path / "sure", sure)))
    assert (
        "the next step is due: month 5, as then the capacity to be left free at the peak is used up"
        in facts(found)["By when"]
    )


def test_a_budget_that_prices_reach_over(run_folder: RunFolder, tmp_path: Path) -> None:
    run = read_run(run_folder("risk"))
    notes = [plain(b.text, SAY) for b in report(run).sections[2].blocks if isinstance(b, Paragraph)]
    assert not any("budget" in text for text in notes)
    most = recommended(dict(run.plan or {}))["risk"]["usd_per_month"]["p95"]
    tight = replace(run, scenario={**run.scenario, "budget": f"{(most - 1) / 730!r}/h"})
    notes = [plain(b.text, SAY) for b in report(tight).sections[2].blocks if isinstance(b, Paragraph)]
    assert any(f"The budget of ${most - 1:,.0f} a month" in text and f"up to ${most:,.0f}" in text for text in notes)


def test_limits_of_what_is_deployed_are_those_of_its_scenario(run_folder: RunFolder) -> None:
    run = read_run(run_folder("fixed"))
    asked = replace(run, scenario={**run.scenario, "budget": "164.3835616438356/h"})
    block = next(b for b in report(asked).sections[1].blocks if isinstance(b, Facts))
    assert {plain(a, SAY): plain(b, SAY) for a, b in block.rows}["Limits"] == "budget $120,000 a month"


def test_a_node_stands_in_one_rack(run_folder: RunFolder) -> None:
    def racks(nodes: int, kw: float, rack_kw: float | None) -> tuple[str, str]:
        plan = copy.deepcopy(dict(run.plan or {}))
        for option in plan["options"]:
            option["power"] |= {"nodes": nodes, "meter_kw": kw}
        found = report(replace(run, plan=plan), rack_kw=rack_kw)
        note = next(b for s in found.sections for b in s.blocks if isinstance(b, Table) and b.key == "power").note
        return table(found, "power")[1][-1], plain(note, SAY)

    run = read_run(run_folder("plain"))
    assert racks(3, 41.4, 28.0)[0] == "2"
    assert racks(3, 41.4, 27.0)[0] == "3"
    assert racks(3, 41.4, None)[0] == "2"
    cell, note = racks(3, 41.4, 5.0)
    assert cell == "does not fit"
    assert "a node of 13.8 kW does not fit into a rack of 5 kW" in note
    assert "as asked" in note
    assert "which is assumed" in racks(3, 41.4, None)[1]


def test_changing_from_today_is_reckoned(run_folder: RunFolder) -> None:
    found, root = made(run_folder, "risk", "fixed")
    new, old = recommended(root["plan"])["money"]["ways"]["reserved"], root["today"]["options"][0]["money"]["ways"]
    less = old["on_demand"]["usd_per_month"] - new["usd_per_month"]
    total = old["on_demand"]["tco_usd"] - new["tco_usd"]
    said = facts(found)["Against today"]
    assert said == (
        f"this (reserved) costs ${less:,.0f} a month less than what is deployed (on demand);"
        f" over 36 months ${total:,.0f} less"
    )
    assert "Against today" not in facts(made(run_folder, "risk")[0])


def test_doing_nothing_says_what_the_judged_run_says(run_folder: RunFolder, tmp_path: Path) -> None:
    def bare(plan: dict[str, Any]) -> None:
        plan["options"][0].pop("risk")

    today = read_run(changed(run_folder("fixed"), tmp_path / "bare", bare))
    assert today.plan is not None
    rows = {row[0]: row[-1] for row in table(report(read_run(run_folder("risk")), today=today), "options")}
    assert rows["keeps its promises in"] == "holds as planned"
    assert rows["room for traffic"] == f"×{today.plan['fixed']['highest_rate_factor']:.2f}"
    rows = {row[0]: row[-1] for row in table(made(run_folder, "risk", "late")[0], "options")}
    assert (rows["keeps its promises in"], rows["room for traffic"]) == ("misses as planned", "no rate that was tried")


def test_a_start_without_growth_dates_nothing(run_folder: RunFolder) -> None:
    text = "No month depends on January 2027 as the start: the run looks at no growth."
    assert text in warned(made(run_folder, "plain", start=START)[0])
    assert text not in warned(made(run_folder, "risk", start=START)[0])


def test_what_was_asked_is_not_assumed(run_folder: RunFolder) -> None:
    origins = {row[0]: row[2] for row in table(report(read_run(run_folder("risk"))), "assumptions")}
    assert origins["growth"] == "asked"
    assert origins["power of a rack"] == "assumed"
    rows = table(report(read_run(run_folder("risk")), rack_kw=12.0), "assumptions")
    assert next(row for row in rows if row[0] == "power of a rack")[1:3] == ["12 kW", "asked"]


def test_a_plan_whose_keys_are_damaged_is_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    def damaged(plan: dict[str, Any]) -> None:
        ranked = plan["risk"]["sensitivity"]
        ranked["kost"] = ranked.pop("cost")

    with pytest.raises(InputError, match="another schema wrote this: cost is missing"):
        read_run(changed(run_folder("risk"), tmp_path / "damaged", damaged))
    with pytest.raises(InputError, match="another schema wrote this: screened is missing"):
        read_run(changed(run_folder("risk"), tmp_path / "less", lambda plan: plan.pop("screened")))
