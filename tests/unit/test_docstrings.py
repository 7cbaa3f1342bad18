"""A docstring of a function opens with a verb and says what the function does."""

import ast
from pathlib import Path

import pytest

import tiltlm

ROOT = Path(tiltlm.__file__).parent

QUESTIONS = {"What", "Which", "Whether", "How", "Who", "Why", "Where"}
MIN_SHARE = 0.9
"""Of functions whose docstring opens with a verb; some are values in all but syntax, such as an overload."""
VERBS = """
    Accumulate Activate Add Adjust Agree Align Allocate Allow Announce Answer Append Apply Arrange Ask Assemble Assert
    Assign Attach Average Await Balance Begin Bind Book Bootstrap Bound Break Bring Broadcast Build Bundle Cache
    Calculate Call Cancel Cap Carry Cast Change Check Choose Clamp Clean Clear Clip Close Collate Collect Combine
    Compare Compile Complete Compose Compress Compute Concatenate Configure Confirm Connect Construct Continue Convert
    Copy Correct Count Cover Create Cut Decide Decode Decompress Decrease Defer Define Delegate Delete Deliver Derive
    Descend Describe Detach Detect Determine Digest Disable Discard Distribute Divide Do Double Draw Drop Embed Emit
    Enable Encode End Enforce Ensure Enter Enumerate Escape Estimate Evaluate Evict Examine Exclude Execute Exit
    Expand Export Express Extend Extract Fail Fetch Fill Filter Find Finish Fit Fix Flatten Flush Fold Follow Forget
    Format Forward Free Freeze Gather Generate Get Give Go Group Guess Handle Hash Have Hide Hold Identify Ignore
    Import Include Increase Index Infer Initialise Insert Inspect Install Interleave Interpolate Intersect Invert
    Issue Iterate Join Judge Keep Launch Lay Lead Leave Let Limit Link List Load Locate Lock Log Look Lower Make Map
    Mark Match Measure Merge Minimise Mix Modify Move Multiply Name Negate Normalise Note Notify Observe Offer Open
    Order Overwrite Pack Pad Parse Partition Pass Patch Pause Pick Place Plan Plot Point Prefix Prepare Preserve
    Prevent Print Process Produce Promise Propose Protect Provide Prune Publish Pull Push Put Quantise Query Quote
    Raise Reach Read Rebuild Receive Recognise Recompute Reconstruct Record Recover Reduce Refer Refuse Register
    Reject Release Remember Remove Rename Render Reorder Repeat Replace Report Represent Request Require Rescale
    Reserve Reset Reshape Reshard Resolve Restore Restrict Resume Return Reuse Reverse Rewrite Round Run Sample Save
    Say Scale Scatter Schedule Score Search See Seed Select Send Serialise Serve Set Shard Share Shift Shorten Show
    Shrink Shuffle Sign Simulate Skip Slice Smooth Solve Sort Speak Split Stack Stage Stamp Standardise Start Step
    Stop Store Stream Strip Substitute Subtract Sum Summarise Suppress Swap Switch Synchronise Take Tell Tie Tokenise
    Touch Trace Track Train Transform Translate Treat Trim Truncate Try Turn Undo Unfold Unlink Unpack Unwrap Update
    Upload Use Validate Verify Visit Wait Walk Warm Warn Watch Weigh Widen Wrap Write Yield Zip
"""


def openings(source: str) -> dict[str, tuple[str, str]]:
    """Return the first two words of every function's docstring by line and name; properties are left out."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text, decorators = ast.get_docstring(node), {ast.unparse(d) for d in node.decorator_list}
            # What `register` takes opens with the method's name: `DPO: …`. tests/unit/test_method_pages.py holds those.
            if text and not decorators & {"property", "cached_property", "functools.cached_property", "register"}:
                first, second, *_ = [word.strip(".,:;") for word in text.split()] + [""]
                found[f"{node.lineno} {node.name}"] = (first, second)
    return found


def opens_with_a_verb(first: str, second: str) -> bool:
    """Return whether the first word is a verb: `Copy the rows`, not `Copy of the rows`."""
    return first in VERBS.split() and second != "of"


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[str, str]]:
    """First words of the docstrings of all functions of the package."""
    places = {}
    for file in sorted(ROOT.rglob("*.py")):
        own = openings(file.read_text(encoding="utf-8"))
        places |= {f"{file.relative_to(ROOT)}:{place}": words for place, words in own.items()}
    assert len(places) > 500
    return places


def test_no_docstring_opens_with_a_question(found):
    assert {place: words for place, words in found.items() if words[0] in QUESTIONS} == {}


def test_docstrings_open_with_a_verb(found):
    others = {place: words for place, words in found.items() if not opens_with_a_verb(*words)}
    share = 1 - len(others) / len(found)
    listed = "\n".join(f"{place}: {' '.join(words)}" for place, words in others.items())
    assert share >= MIN_SHARE, f"{share:.1%} open with one of VERBS; these do not:\n{listed}"


def test_a_noun_a_property_and_a_method_of_the_catalogue_are_told_apart():
    source = '''
@register
def dpo():
    """DPO: a method."""
class A:
    """Whatever it is."""
    @property
    def size(self):
        """How large it is."""
    def run(self):
        """Run."""
    def silent(self): ...
def free():
    """Copy of what is free."""
'''
    words = list(openings(source).values())
    assert words == [("Copy", "of"), ("Run", "")]
    assert [opens_with_a_verb(*pair) for pair in words] == [False, True]
