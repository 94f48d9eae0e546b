"""Exceptions: layers in float, images that were skipped, and tuning that was taken back."""

from mrecg.config.settings import FLOAT_BITS
from mrecg.report.parts import Section
from mrecg.report.reported_run import ReportedRun
from mrecg.report.wording import counted, listed, number, percent

__all__ = ["left_out_section"]


def left_out_section(run: ReportedRun) -> Section:
    """Return the section."""
    notes = (*_in_float(run), *_taken_back(run), *_skipped(run))
    answer = (
        f"{counted(len(notes), 'exception')}:"
        if notes
        else "Nothing: every layer is quantized, every group and every join was kept, and every image was read."
    )
    return Section("What stayed in float, was skipped, or was taken back?", answer, notes=notes)


def _in_float(run: ReportedRun) -> tuple[str, ...]:
    names = run.record.left_in_float
    if not names:
        return ()
    return (f"{counted(len(names), 'layer')} in float ({FLOAT_BITS} bits): {listed(names)}.",)


def _taken_back(run: ReportedRun) -> tuple[str, ...]:
    found = []
    worse = [" + ".join(group.units) for group in run.record.groups if not group.accepted]
    if worse:
        found.append(
            f"{counted(len(worse), 'group')} rounded to nearest, because tuning made the loss larger: {listed(worse)}."
        )
    found += [
        f"{' + '.join(join.units)} tuned one by one, because jointly the loss at the end was {percent(join.joint_loss)} and not "
        f"{percent(join.separate_loss)}."
        for join in run.record.plan.joins
        if not join.kept
    ]
    network = run.record.network
    if network is not None and not network.accepted:
        found.append(
            "The network as a whole left as its groups made it, because tuning it raised the divergence from "
            f"{number(network.divergence_before)} to {number(network.divergence_after)}."
        )
    return tuple(found)


def _skipped(run: ReportedRun) -> tuple[str, ...]:
    skipped = run.record.skipped_images
    if not skipped:
        return ()
    return (f"{counted(len(skipped), 'image')} that could not be read: {listed(skipped, 3)}.",)
