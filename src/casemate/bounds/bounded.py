"""What the values of every domain tell that goes forward: bounds of each entry, and of sums of them."""

from torch import Tensor

from casemate.bounds.operations import Values


class Bounded:
    """Entries from centre - radius to centre + radius, both [batch, *shape].

    `n_errors` is the number of terms that a radius is the sum of, which is what it can lose to rounding.
    """

    centre: Values
    radius: Values
    n_errors: int

    @property
    def lower(self) -> Values:
        return self.centre - self.radius

    @property
    def upper(self) -> Values:
        return self.centre + self.radius

    @property
    def size(self) -> Values:
        """The largest magnitude inside."""
        return self.centre.abs() + self.radius

    def least(self, weight: Tensor) -> Tensor:
        """The least of weight [batch, row, entry] times the entries [batch, entry], up to rounding."""
        raise NotImplementedError
