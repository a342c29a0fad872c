"""What the answer rests on, and how far to trust it: assumptions with their sources, errors against measurements."""

from __future__ import annotations

from collections.abc import Iterator

from twin.show.report.blocks import Block, Bullets, Cell, Figure, Paragraph, Row, Section, Table, Text
from twin.show.report.figures import drawn
from twin.show.report.money import PAID, decided_ways
from twin.show.report.options import parts_of
from twin.show.report.source import Matter, Node, joined

ERRORS = ("tpot", "ttft", "e2el")


def assumptions(m: Matter) -> Section:
    """Every figure that the answer rests on, once."""
    rows = [*_prices(m), *_bill(m), *_power(m), *_asked(m), *_models(m)]
    heads = ("figure", "value", "origin", "source", "date")
    table = Table(
        key="assumptions",
        caption=m.t("What the answer rests on"),
        head=tuple(m.t(head) for head in heads),
        rows=tuple(rows),
        align=("left", "right", "left", "left", "left"),
        note=m.t(
            "Origins: measured, fitted to measurements, from a datasheet or a published list, asked for, or assumed."
        ),
    )
    return Section("assumptions", m.say("Assumptions"), (table,))


def _line(what: Text, value: Text, node: Node) -> Row:
    """A figure with the provenance that stands beside it."""
    return Row(
        (what, value, (node["origin"].cell("word"),), (node["source"].cell("cite"),), (node["date"].cell("date"),))
    )


def _prices(m: Matter) -> Iterator[Row]:
    """Of each GPU among the options."""
    seen = set()
    for option in [*m.plan["options"], *m.plan["near_misses"]]:
        for part in parts_of(option):
            price = part["usd_per_gpu_hour"]
            if part["gpu"].value in seen or not price.there:
                continue
            seen.add(part["gpu"].value)
            value: Text = (price["value"].cell("usd_hour"),)
            if price["low"].there:
                value = (*value, " (", price["low"].cell("usd_hour"), "–", price["high"].cell("usd_hour"), ")")
            yield _line(m.t("{gpu}, an hour", gpu=part["gpu"].cell("name")), value, price)


def _bill(m: Matter) -> Iterator[Row]:
    """The lines of the way to pay that is decided for."""
    for kind, way in decided_ways(m, m.subject)[:1]:
        for line in way["lines"]:
            what = m.t("{kind}: {line}", kind=m.t(PAID[kind]), line=line["name"].cell("sentence"))
            yield _line(what, m.t("{usd} a month", usd=line["usd_per_month"].cell("usd")), line)


def _power(m: Matter) -> Iterator[Row]:
    for name, source in m.subject["power"]["sources"].items():
        yield _line((Cell(name, "sentence", f"key({source.path})"),), (), source)


def _asked(m: Matter) -> Iterator[Row]:
    """What the question itself takes for given."""
    given = (
        ("growth", m.flags["growth"].cell("name")),
        ("capacity left free at the peak", m.flags["headroom"].cell("name")),
        ("worlds in which the recommended option holds", m.plan["risk"]["confidence"].cell("share")),
    )
    for what, cell in given:
        if cell.value is not None:
            yield Row((m.t(what), (cell,), m.t("asked"), m.t("the question"), ()))
    origin, source = ("asked", "the question") if m.asked["rack_named"].value else ("assumed", "racks with air cooling")
    yield Row((m.t("power of a rack"), (m.asked["rack_kw"].cell("kw"),), m.t(origin), m.t(source), ()))


def _models(m: Matter) -> Iterator[Row]:
    """Of the models: how far engines were off, spot, accuracy of precisions."""
    for error in m.subject["risk"]["engine_errors"]:
        value: Text = ("TPOT ", error["tpot"].cell("share"), m.say(", "), "TTFT ", error["ttft"].cell("share"))
        what = m.t("{gpu}: whole engines off the model", gpu=error["gpu"].cell("name"))
        yield Row((what, value, m.t("measured"), (error["source"].cell("cite"),), ()))
    for part in parts_of(m.subject):
        own = part["precision"]
        if own["accuracy_loss_source"].there:
            what = m.t("{gpu}: expected accuracy loss of its precision", gpu=part["gpu"].cell("name"))
            loss = own["expected_accuracy_loss"].cell("share")
            yield Row((what, (loss,), m.t("published"), (own["accuracy_loss_source"].cell("cite"),), ()))
    spread = m.plan["risk"]["sensitivity"]["assumed"]
    if spread.there:
        what = m.t("spread of inputs without a measured one")
        yield Row((what, (), m.t("assumed"), (spread.cell("sentence"),), ()))
    for spot in m.subject["money"]["spot"]:
        if spot["interruptions_per_hour"].there:
            what = m.t("{gpu}: interruptions of spot, an hour", gpu=spot["gpu"].cell("name"))
            yield Row((what, (spot["interruptions_per_hour"].cell("number"),), m.t("assumed"), m.t("price book"), ()))


def validity(m: Matter) -> Section:
    blocks: list[Block] = []
    for part in parts_of(m.subject) if m.subject.there else ():
        blocks += [Paragraph(_range(m, part)), _errors(m, part)]
    blocks += [Figure(chart) for chart in drawn(m, "bottleneck")]
    notes = [(note.cell("sentence"),) for note in m.plan["notes"]]
    if notes:
        blocks += [Paragraph(m.t("What the figures leave out, and what the plan notes:")), Bullets(tuple(notes))]
    return Section("validity", m.say("Model validity"), tuple(blocks))


def _range(m: Matter, part: Node) -> Text:
    gpu = part["gpu"].cell("name")
    if part["calibrated"].value == "inside":
        return m.t("{gpu}: the working point lies inside of what was measured.", gpu=gpu)
    reasons = joined([(each.cell("sentence"),) for each in part["outside_because"]], m.say(", "))
    return m.t("{gpu}: the working point lies outside of what was measured: {reasons}.", gpu=gpu, reasons=reasons)


def _errors(m: Matter, part: Node) -> Table:
    """Against whole runs, on this GPU and on GPUs that no fit had seen, and of the kernels."""
    own, origin, rows = part["accuracy"], part["accuracy"]["host_origin"], []
    for measured in own["quoted"]["measured"]:
        fitted = "host times fitted on them" if measured["fitted"].value else "not used in any fit"
        kind = measured["kind"].cell("word")
        rows.append(_row(m.t("{kind} of this GPU ({fitted})", kind=kind, fitted=m.t(fitted)), measured))
    if own["quoted"]["unseen_gpu"].there:
        rows.append(_row(m.t("GPUs left out of the fit"), own["quoted"]["unseen_gpu"]))
    for name, error in own["kernel_mape"].items():
        kernels = m.t("kernels: {name}", name=Cell(name, "word", f"key({error.path})"))
        rows.append(Row((kernels, ("–",), (error.cell("share"),), ("–",), ("–",))))
    if not rows:
        rows = [Row((m.t("nothing was measured"), *(("–",) for _ in range(4))))]
    return Table(
        key="errors",
        caption=m.t("Mean absolute errors against measurements, {gpu}", gpu=part["gpu"].cell("name")),
        head=tuple(m.t(head) for head in ("compared with", "n", "TPOT or kernel", "TTFT", "E2EL")),
        rows=tuple(rows),
        align=("left", *("right",) * 4),
        note=m.t("Host times of this GPU: {origin}.", origin=origin.cell("word")) if origin.there else (),
    )


def _row(what: Text, errors: Node) -> Row:
    return Row((what, (errors["n"].cell("count"),), *((errors[name].cell("share"),) for name in ERRORS)))
