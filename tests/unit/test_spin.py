"""When it is worth trying before blocking."""

from mesh.spin import MISSES, Spin


def test_it_is_given_up_when_nothing_comes_in_time_and_taken_up_when_it_does() -> None:
    spin = Spin(0.001)
    for _ in range(MISSES):
        assert spin.due() == 0.001
        spin.tell(False)
    tries = [spin.due() for _ in range(3 * MISSES)]
    assert tries.count(0.001) == 3 and set(tries) == {0.0, 0.001}
    spin.tell(True)
    assert spin.due() == 0.001


def test_zero_is_never() -> None:
    spin = Spin(0.0)
    assert not any(spin.due() for _ in range(3 * MISSES))
