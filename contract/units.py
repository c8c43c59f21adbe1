"""Amounts of a token as people read them: `2.0001 ICP` for 200010000 base units."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """What a token is counted in: the symbol, and how many decimals one has."""

    symbol: str
    decimals: int

    def describe(self, amount: int) -> str:
        """An amount, given in base units."""
        whole, rest = divmod(amount, 10**self.decimals)
        text = f"{whole}.{rest:0{self.decimals}d}".rstrip("0") if rest else str(whole)
        return f"{text} {self.symbol}"
