"""What of a source could not be used, a row each with its reason, and what is said of it where it stops a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from infra.errors import UserError

MAX_REJECTS = 10**6
"""Rows of `rejects` that memory is kept for: two bytes of a hostile file are a row of hundreds."""


@dataclass
class Rejects:
    """Everything that could not be used, a row each; `products` counts by reason those that are rows of styles.csv."""

    rows: list[dict[str, str | None]] = field(default_factory=list)
    products: Counter[str] = field(default_factory=Counter)
    samples: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """By reason the first row of styles.csv."""

    def product(self, product_id: str | None, file: str, reason: str, detail: str = "") -> None:
        """Reject a row of styles.csv."""
        self.products[reason] += 1
        self.file(product_id, file, reason, detail)
        self.samples.setdefault(reason, self.rows[-1])

    def file(self, product_id: str | None, file: str, reason: str, detail: str = "") -> None:
        """Reject a file that no accepted row of styles.csv asks for.

        Raises:
            UserError: there are too many.
        """
        if len(self.rows) == MAX_REJECTS:
            raise UserError(
                f"more than {MAX_REJECTS:,} rows and files cannot be used, the last one for this reason: {reason}",
                where=file,
                remedy="give a source that is a catalogue",
            )
        self.rows.append({"product_id": product_id, "file": file, "reason": reason, "detail": detail})

    def of_products(self) -> str:
        """Why rows of styles.csv cannot be used: each kind, the most frequent first, with its number and a sample."""
        return "; ".join(f"{count:,} × {self._kind(reason)}" for reason, count in self.products.most_common())

    def of_files(self) -> str:
        """The same of the files that no row asks for."""
        counts = Counter(str(row["reason"]) for row in self.rows) - self.products
        first = {row["reason"]: row for row in reversed(self.rows)}
        return "; ".join(
            f"{count:,} × {reason} (such as {first[reason]['file']}: {first[reason]['detail']})"
            for reason, count in counts.most_common()
        )

    def _kind(self, reason: str) -> str:
        sample = self.samples[reason]
        row = f"{sample['product_id']} in {sample['file']}" if sample["product_id"] else sample["file"]
        return f"{reason} (such as {row}{': ' if sample['detail'] else ''}{sample['detail']})"
