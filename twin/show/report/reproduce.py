"""How to make it again: the command, versions, hashes, and what starts the recommended option."""

from __future__ import annotations

from collections.abc import Iterator

from twin.show.report.blocks import Block, Cell, Command, Facts, Form, Paragraph, Row, Section, Table, Text
from twin.show.report.options import parts_of
from twin.show.report.source import Matter, Node, derived

RECIPE = "recipe in scenario.yaml"
FLAG_NAMES = {"request_class": "class"}
FILES = ("traffic", "price_book", "fixed")


def reproduce(m: Matter) -> Section:
    blocks: list[Block] = [_question(m)]
    for part in parts_of(m.subject):
        if part["vllm_command"].there:
            title = m.t("One replica of {gpu}", gpu=part["gpu"].cell("name"))
            blocks.append(Command(title, ((part["vllm_command"].cell("command"),),)))
    blocks.append(
        Facts(
            (
                (m.t("Version of twin"), (m.manifest["twin_version"].cell("name"),)),
                (m.t("vLLM that is modelled"), (m.plan["vllm_version_modelled"].cell("name"),)),
                (m.t("Seed"), (m.plan["seed"].cell("name"),)),
                (
                    m.t("Search"),
                    m.t(
                        "{screened} configurations screened, {simulated} simulated",
                        screened=m.plan["screened"].cell("count"),
                        simulated=m.plan["simulated"].cell("count"),
                    ),
                ),
            )
        )
    )
    blocks.append(_hashes(m))
    blocks += [Paragraph(text, "note") for text in _further(m)]
    blocks.append(Paragraph(m.t("The same command on the same files gives the same plan, byte for byte."), "note"))
    return Section("reproduce", m.say("How to reproduce it"), tuple(blocks))


def _question(m: Matter) -> Command:
    title = m.t("The plan")
    if m.fixed or not m.flags.there:
        flag: tuple[Text, ...] = (("twin plan --fixed scenario.yaml",),)
        return Command(m.t("The plan (scenario.yaml lies in the run folder; flags were not kept)"), flag)
    lines: list[Text] = [("twin plan",)]
    lines += [("  ", *words) for name, node in m.flags.items() for words in _flag(name, node)]
    return Command(title, (*((*line, " \\") for line in lines[:-1]), lines[-1]))


def _flag(name: str, node: Node) -> list[Text]:
    """``--risk``; ``--ttft 500ms``; once for each of several; a file by its name."""
    flag = f"--{FLAG_NAMES.get(name, name).replace('_', '-')}"
    if node.value is True:
        return [(flag,)]
    if node.value is None or node.value is False:
        return []
    if isinstance(node.value, list):
        return [(flag, " ", each.cell("shell")) for each in node]
    if name in FILES or (name == "model" and str(node.value).endswith(".json")):
        return [(flag, " ", derived("short_name", "shell", node))]
    return [(flag, " ", node.cell("shell"))]


def _further(m: Matter) -> Iterator[Text]:
    """The flags that answer what this run leaves open."""
    own = m.subject["risk"]
    if m.plan["interrupted"].value:
        yield m.t("twin plan --resume goes on with the search that was stopped.")
    if not own["probability_held"]["value"].there:
        yield m.t("twin plan --risk assesses confidence, failures and, with --growth, when the next step is due.")
    elif not own["growth"].there:
        yield m.t("twin plan --risk --growth says when the next step is due.")
    if not m.deployed.there:
        yield m.t("twin plan --fixed judges what is deployed; twin report --today puts that into this report.")


def _hashes(m: Matter) -> Table:
    rows: list[Row] = []
    for name, title in (("traffic", "traffic: {name}"), ("price_book", "price book: {name}")):
        file = m.manifest[name]
        if file.there:
            form: Form = "sentence" if file["name"].value == RECIPE else "name"
            rows.append(Row((m.t(title, name=file["name"].cell(form)), (file["sha256"].cell("hash"),))))
    for name, digest in m.manifest["profiles"].items():
        rows.append(
            Row((m.t("profile: {name}", name=Cell(name, "name", f"key({digest.path})")), (digest.cell("hash"),)))
        )
    return Table(
        key="hashes",
        caption=m.t("SHA-256 of what it rests on (the first characters)"),
        head=(m.t("profile or file"), m.t("hash")),
        rows=tuple(rows),
        align=("left", "left"),
    )
