"""`icto launch`, `launches`, `launch-status`: from a file to a table; what goes wrong, in words."""

import re
from pathlib import Path

import pytest

from mesh.cli.client import Client, load_key
from tests.support.installation import E8S, Installation, new_symbol
from tests.support.terminal import at_terminal

EXAMPLE = Path(__file__).parents[2] / "examples" / "launch.yaml"
ID = r"[0-9a-f-]{36}"
SMALL = """\
display_name: Small
new_token:
  {{display_name: Small token, symbol: {symbol}, total_supply: 1_000_000, transfer_fee: 10}}
locks:
  - display_name: {lock}
    total_amount: 1_000
    schedule:
      instant: {{}}
    beneficiaries:
      - principal: e73il-iz5tp-nkgt7-idxyw-ngkah-47bpv-qdase-pzde6-g6vwc-a3eql-jae
        amount: {amount}
"""


@pytest.fixture(scope="module")
async def home(mesh: Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a user with some ICP."""
    folder = tmp_path_factory.mktemp("home")
    assert (await mesh.icto("faucet", home=folder))[0] == 0
    return folder


def small(folder: Path, lock: str = "Team", amount: int = 1_000) -> str:
    file = folder / "small.yaml"
    file.write_text(SMALL.format(symbol=new_symbol(), lock=lock, amount=amount))
    return str(file)


async def test_a_launch_from_a_file_is_followed_to_its_result(
    mesh: Installation, home: Path
) -> None:
    symbol, file = new_symbol(), home / "launch.yaml"
    file.write_text(EXAMPLE.read_text().replace("HARBOUR", symbol))
    status, output = await mesh.icto("launch", str(file), "--yes", home=home)
    assert status == 0, output
    assert re.search(r"^all of it +3 ICP$", output, re.MULTILINE)
    for step in ("charge", "create_token", "lock_1", "lock_2", "distribution_1", "settle"):
        assert re.search(rf"^ +\d+\.\d ms  {step} +done +backend-\d", output, re.MULTILINE), output
    assert re.search(r"^ +\d+\.\d ms  succeeded$", output, re.MULTILINE)
    for row in (
        rf"token +tokens/{ID} +Harbour token \({symbol}\)",
        rf"lock_1 +locks/{ID} +Team",
        rf"lock_2 +locks/{ID} +Advisors",
        rf"distribution_1 +distributions/{ID} +Community",
        rf"payment +payments/{ID} +3 ICP paid, 0 ICP refunded",
    ):
        assert re.search(rf"^{row} *$", output, re.MULTILINE), (row, output)


async def test_launches_are_listed_newest_first_and_each_is_told_in_full(
    mesh: Installation, home: Path, tmp_path: Path
) -> None:
    """A part that fails is told, and the exit status tells it, too."""
    status, first = await mesh.icto("launch", small(tmp_path), "--yes", home=home)
    assert status == 0, first
    status, second = await mesh.icto("launch", small(tmp_path, "Refused lock"), "--yes", home=home)
    assert status == 1
    assert re.search(r"lock_1 +failed .* LOCK_REFUSED: ", second)
    assert re.search(r"^payment .* 2 ICP paid, 0.5 ICP refunded$", second, re.MULTILINE)
    assert "succeeded in part. LOCK_REFUSED" in second
    names = [re.findall(rf"^launches/{ID}", text, re.MULTILINE)[0] for text in (first, second)]

    _, listed = await mesh.icto("launches", "-n", "2", home=home)
    rows = [line for line in listed.splitlines() if line.startswith("launches/")]
    assert [row.split()[0] for row in rows] == names[::-1]
    assert "succeeded in part" in rows[0]
    assert re.search(rf"Small +succeeded +\d{{4}}-\S+ \S+ +2 ICP +tokens/{ID}", rows[1])

    status, told = await mesh.icto("launch-status", names[1].removeprefix("launches/"), home=home)
    assert status == 0
    line = r"{} +{} +backend-\d +\d+ +\d+\.\d ms +\d+\.\d ms +█+"
    assert re.search(line.format("charge", "done"), told)
    assert re.search(line.format("lock_1", "failed"), told)
    assert "lock_1: LOCK_REFUSED: " in told
    assert re.search(rf"^2 ICP, payments/{ID}$", told, re.MULTILINE)
    assert re.search(r"^trace [0-9a-f]{32}$", told, re.MULTILINE)


async def test_a_check_launches_nothing(mesh: Installation, tmp_path: Path) -> None:
    _, output = await mesh.icto("launch", "--check", small(tmp_path), home=tmp_path)
    assert re.search(r"^all of it +2 ICP$", output, re.MULTILINE)
    held = r"^0.0000101 [A-Z]{8} are locked and distributed, fees included; 0.0099898 \w+ go to you"
    assert re.search(held, output, re.MULTILINE), output
    assert "There are none yet" in (await mesh.icto("launches", home=tmp_path))[1]


async def test_who_cannot_pay_is_told_before_anything_is_approved(
    mesh: Installation, tmp_path: Path
) -> None:
    for arguments in (("--check",), ("--yes",)):
        status, output = await mesh.icto("launch", small(tmp_path), *arguments, home=tmp_path)
        assert status == 1, output
        assert re.search(r"You hold 0 ICP; the launch costs 2\.\d+ ICP with the fees", output)
        assert "Nothing was approved or ordered" in output


async def test_a_launch_pays_nothing_where_nobody_can_be_asked(
    mesh: Installation, tmp_path: Path
) -> None:
    """`icto launch f.yaml </dev/null | cat`."""
    assert (await mesh.icto("faucet", home=tmp_path))[0] == 0
    status, output = await mesh.icto("launch", small(tmp_path), home=tmp_path)
    assert status == 2, output
    assert "--yes" in output
    await untouched(mesh, tmp_path)


async def test_a_launch_at_a_terminal_is_paid_for_once_its_price_was_agreed_to(
    mesh: Installation, tmp_path: Path
) -> None:
    assert (await mesh.icto("faucet", home=tmp_path))[0] == 0
    home, file = {"XDG_CONFIG_HOME": str(tmp_path)}, small(tmp_path)
    for answer in ("n\n", "\n"):
        status, _, output = await at_terminal(mesh, "launch", file, environment=home, typed=answer)
        assert (status, "Pay 2 ICP and launch? [y/N]" in output) == (1, True), output
    await untouched(mesh, tmp_path)
    status, _, output = await at_terminal(mesh, "launch", file, environment=home, typed="y\n")
    assert status == 0, output


async def untouched(mesh: Installation, home: Path) -> None:
    """Nothing was ordered, and nothing paid: not even the fee of an approval."""
    assert "There are none yet" in (await mesh.icto("launches", home=home))[1]
    client = Client(mesh.edge, load_key(home / "icto" / "key"))
    try:
        await client.sign_in()
        account = await client.rest("GET", f"/v1/ledgers/icp/accounts/{client.principal}")
        assert account.body["balance"] == str(100 * E8S)
    finally:
        await client.close()


async def test_what_cannot_be_launched_is_said_with_its_line(
    mesh: Installation, tmp_path: Path
) -> None:
    good = SMALL.format(symbol=new_symbol(), lock="Team", amount=1_000)
    for change, says in (
        (
            ("total_amount", "amount_total"),
            "f.yaml:6: locks[0] has no field 'amount_total'; it has",
        ),
        (("1_000\n    sch", "2_000\n    sch"), "f.yaml:9: locks[0].beneficiaries "),
        (("1_000\n    sch", "lots\n    sch"), "f.yaml:6: locks[0].total_amount "),
        (("      instant: {}", "      linear: {}"), "f.yaml:8: locks[0].schedule.linear.duration "),
        (("Small token", "x"), "f.yaml:3: new_token.display_name "),
        (("1_000_000", "1_000"), "f.yaml: locks and distributions take 1010 "),
    ):
        file = tmp_path / "f.yaml"
        file.write_text(good.replace(*change))
        status, output = await mesh.icto("launch", str(file), home=tmp_path)
        assert (status, says in output) == (1, True), (change, output)
        assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("launch", "/nowhere.yaml"), "/nowhere.yaml cannot be read: "),
        (("launch-status", "x"), "INVALID_NAME: name must have the form 'launches/"),
        (("launch-status", "0" * 8), "INVALID_NAME"),
        (("launches", "--edge", "http://127.0.0.1:1"), "The platform cannot be reached: "),
    ],
)
async def test_what_cannot_be_done_is_said_in_words(
    mesh: Installation, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    status, output = await mesh.icto(*arguments, home=tmp_path)
    assert (status, says in output) == (1, True), output
    assert "Traceback" not in output
