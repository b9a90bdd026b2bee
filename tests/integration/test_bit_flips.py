"""One flipped bit anywhere in a store: no value is returned altered, and it is found."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from mesh.protocol.storage import PART
from tests import support
from tests.conformance.storage.driver import Clock, Driver, opened_lmdb
from tests.integration.memory_mesh import SEED, SOAK

BITS = 400 if SOAK else 25


@pytest.mark.timeout(1200 if SOAK else 60)
def test_what_one_flipped_bit_does(tmp_path: Path) -> None:
    print(f"SAGE_SEED={SEED}")
    rng = random.Random(SEED)
    expected = {}
    engine = opened_lmdb(tmp_path / "s", Clock())
    store = Driver(engine, Clock())
    for number in range(400):
        key = f"k{number:03}"
        expected[key] = rng.randbytes(rng.choice((10, 50, 200, 900))).hex()
        store.put(key, expected[key])
    for number in range(12):
        data = rng.randbytes(rng.choice((100, 3000, 20_000)))
        store.put_small(f"o{number}", data)
        expected[f"o{number}"] = data.hex()
    data = rng.randbytes(PART + 5)
    store.put_large("o-large", data)
    expected["o-large"] = data.hex()
    engine.close()
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    done = support.run(
        sys.executable, "-m", "tests.integration.flipper", str(tmp_path), str(BITS), str(SEED),
        timeout=1100 if SOAK else 55,
    )  # fmt: skip
    assert done.returncode == 0, done.report()
    lines = [json.loads(line) for line in done.output().splitlines() if line.startswith("{")]
    assert len(lines) == BITS
    seen: Counter[str] = Counter()
    for line in lines:
        where = f"octet {line['at']}, bit {line['bit']}"
        read, checked = line["read"], line["verified"]
        assert "error" not in read and "error" not in checked, (where, line)
        found = set(read["found"].values()) if "found" in read else {"crash"}
        seen.update(found)
        assert "altered" not in found, where
        if found != {"right"}:
            assert "signal" in checked or checked["found"], f"{where}: {found} was not found"
    print(seen)
    assert seen["right"]
