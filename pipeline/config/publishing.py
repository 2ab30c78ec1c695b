"""Keys of a recipe for publishing: what is published, which checks can refuse it, and what is kept."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.base import PAST, Fraction, Section


class Checks(Section):
    """Bounds of the audits in `sql/checks`. Without a bound, the audit only warns."""

    max_shrink: Annotated[float, Field(gt=0, le=1)] = 0.9
    """A source that lost this share of the rows of the last published night is refused (exit 3)."""
    max_age_days: PositiveFloat | None = None
    """Maximum age of the newest interaction when the night starts."""
    max_future_days: Annotated[float, Field(ge=0)] = 1.0
    """How far after the night's start an interaction may be: time zones, inaccurate clocks."""
    max_unknown_events: Fraction | None = None
    """Maximum share of rows whose event type is not in `dataset.events`; absent: they are a warning."""
    min_coverage: Fraction | None = None
    """Minimum share of the items in the fit that must be in at least one list."""
    max_new_users: Fraction | None = None
    """Largest share of the source's users that the live tables do not have."""
    max_lost_users: Fraction | None = None
    """Largest share of the live tables' users that the source no longer has."""
    max_new_items: Fraction | None = None
    """Largest share of the source's items that the live tables do not have."""
    max_lost_items: Fraction | None = None
    """Largest share of the live tables' items that the source no longer has."""


class Gate(Section):
    """What a new champion must gain on valid over the published configuration, without losing to popularity."""

    enabled: bool = True
    """false: the best model on valid is published without a comparison."""
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A challenger must gain more than this share of the incumbent's metric: the interval must lie above it."""
    nights: PositiveInt = 30
    """Number of nights that `confidence` covers: with equal models the champion changes at most once in so many."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the incumbent's metric that a segment may lose, and all users to a challenger that is preferred."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the decision over `nights` and all challengers; for segments with Bonferroni's correction."""
    prefer: Literal["quality", "cheaper", "steadier"] = "quality"
    """A challenger of equal quality (within `margin`) replaces the incumbent also if its fit is cheaper, or if it
    changes the published lists less (steadier). One that costs more must gain more than `margin`."""
    max_cost: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A fit is cheaper if it takes at most this share of the other one's seconds, and a model steadier if it changes
    the lists by significantly less than this share of the other one's change."""
    list_users: PositiveInt = 2000
    """Size of the sample of users whose lists are compared for `steadier`."""
    min_segment_users: PositiveInt = 100
    """A segment with fewer users can't reject a challenger."""


class Churn(Section):
    """How much lists may differ from the published ones. Change is 1 - Jaccard, averaged over the users of both."""

    warn_change: Fraction = 0.7
    """A larger change is a warning."""
    max_change: Fraction | None = None
    """A larger change is refused (exit 3)."""
    accept: bool = False
    """true: `max_change` is ignored; `run --accept-churn` sets it for one night."""


class Boost(Section):
    """Items whose scores are raised or lowered before lists are cut."""

    where: str
    """Condition on the item catalog."""
    factor: Annotated[float, Field(gt=0, le=1000)]
    """A score of 0 or more is multiplied by it, a negative one divided: above 1 the item always rises."""


class Promotion(Section):
    """A place of the lists that is given to an item of a choice, if no item of it is there or above anyway."""

    where: str | None = None
    """Condition on the item catalog: the best of these items that the user does not have yet is placed."""
    items: str | None = None
    """CSV in the data folder instead: item_id, and optionally place, reason, from, until."""
    place: PositiveInt = 1
    """1 is the top. Each place is given once."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "Promotion":
        if (self.where is None) == (self.items is None):
            raise ValueError("a promotion has either where or items")
        return self


class Explore(Section):
    """Places of the lists that are kept for new items. Their rows have the source `explore`.

    The places are drawn for each user below the top of the list, and new items for them, all equally likely. Rules,
    masks and limits by attribute hold for them too.
    """

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the places of a list, rounded, at least one place."""
    new_days: PositiveInt = 14
    """How many days an item is new: from its first interaction on, back from the newest interaction of all."""
    available_from: str | None = None
    """Column of the item catalog with the day from which an item is new; so items without interactions are shown,
    too."""


class Holdback(Section):
    """Users who get the lists of the runner-up, the second-best model on valid; of popularity, where there is none.

    Their rows have the source `holdback`. `realised` compares them with the others.
    """

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the users."""
    salt: str = "holdback"
    """Users are chosen by a hash of it and their id, so they stay the same. Another salt chooses others."""


class ByAttribute(Section):
    """Lists by the values of an item attribute, in the table `recommendations_by`.

    Masks, boosts and the rules that exclude items hold for them; promotions, places for new items and limits by
    attribute are of the other lists.
    """

    attribute: str
    """Attribute or other column of the item catalog."""
    top_n: PositiveInt = 10
    """Length of a list."""
    values: PositiveInt = 5
    """Most values per user: those whose best items have the highest scores."""


class Trending(Section):
    """Items that grow most against their own past, in the table `trending_items`.

    Growth is that of the item's share of all interactions, shrunk towards 1; items are ranked by the lower end of its
    interval, so an item with few interactions comes after one that is sure to grow.
    """

    top_n: PositiveInt = 20
    windows: list[PositiveInt] = Field(default=[7], min_length=1)
    """Recent periods in days, back from the newest interaction."""
    past: PositiveInt = 4
    """The past of an item: this many windows before the recent one."""
    by: str | None = None
    """Attribute of items: a list of its own for each value, too."""


class Audiences(Section):
    """The users who would like an item most, in the table `audiences`, by scores that are comparable between users."""

    top_n: PositiveInt = 100
    """Users per item."""
    attributes: list[str] = Field(default=[])
    """Attributes of items whose values have audiences, too, in `attribute_audiences`."""


class Export(Section):
    """What is published.

    Conditions on the item catalog are boolean expressions of DuckDB over its columns, `n_interactions`, `first_seen`,
    `last_seen` and `night_date`, e.g. `not in_stock` or `list_contains(genres, 'Drama')`. NULL counts as false.
    """

    top_n: PositiveInt = 20
    active_days: PositiveInt | None = None
    """Only users with an interaction in this many days before the newest one get a list at night. `nightrecs recommend`
    makes the list of any other user on request."""
    similar_items: NonNegativeInt = 20
    reasons: NonNegativeInt = 0
    """Most reasons per recommendation: items of the user's history that it comes from. Families ease, slim, ials,
    item_knn, rp3beta, graph_filter (small catalogs) and their blends can tell."""
    popular_items: PositiveInt = 100
    popular_windows: list[PositiveInt] = Field(default=[7, 30])
    """Windows in days before the last interaction, in addition to the whole history."""
    exclude_items: str | None = None
    """CSV of items that are never recommended, in the data folder: item_id, and optionally reason, from, until."""
    only_items: str | None = None
    """CSV of the only items that are recommended; same format as exclude_items."""
    max_per_attribute: dict[str, PositiveInt] = Field(default={})
    """Attribute or other column of the item catalog to the most items with the same value in one list, e.g.
    { genres = 3 }."""
    fresh_days: PositiveInt | None = None
    """Only items with an interaction in this many days before the newest interaction are recommended."""
    exclude_where: str | None = None
    """Condition on the item catalog: these items are never recommended."""
    only_where: str | None = None
    """Condition on the item catalog: only these items are recommended."""
    boost: list[Boost] = Field(default=[])
    """E.g. [{ where = "is_new", factor = 1.2 }]. An item that several conditions name gets all factors."""
    promote: list[Promotion] = Field(default=[])
    """E.g. [{ where = "is_new", place = 3 }]. Rows have the source `promoted`; limits by attribute don't count them."""

    explore: Explore | None = None
    """Places for new items; absent: none."""
    holdback: Holdback | None = None
    """Users with the lists of another model; absent: none."""
    by: ByAttribute | None = None
    """Lists by category or another attribute; absent: none."""
    trending: Trending | None = None
    """Trending items; absent: none."""
    audiences: Audiences | None = None
    """Audiences of items; absent: none."""
    fallback_by: str | None = None
    """Attribute of users, e.g. "country": who can't be served by the model gets what is popular among users with the
    same value. Lists of users who are not known yet are in the table `fallback_items`."""

    @model_validator(mode="after")
    def _places_are_free(self) -> "Export":
        places = [promotion.place for promotion in self.promote]
        if repeated := [place for place in places if places.count(place) > 1]:
            raise ValueError(f"promote: place {repeated[0]} is given twice")
        if beyond := [place for place in places if place > self.top_n]:
            raise ValueError(f"promote: place {beyond[0]} is beyond top_n = {self.top_n}")
        return self


class NamedList(Section):
    """A further list of every user, from the same model, in the table `recommendations_in`.

    A key that is absent is as in `[export]`, so what is excluded there is excluded here too; but promotions and places
    for new items are each list's own.
    """

    top_n: PositiveInt | None = None
    exclude_items: str | None = None
    only_items: str | None = None
    max_per_attribute: dict[str, PositiveInt] | None = None
    fresh_days: PositiveInt | None = None
    exclude_where: str | None = None
    """`exclude_where = "false"` excludes nothing, whatever `[export]` excludes."""
    only_where: str | None = None
    boost: list[Boost] | None = None
    promote: list[Promotion] = Field(default=[])
    explore: Explore | None = None

    def of(self, export: Export) -> Export:
        """What the list is made by. Raises ValueError for a promotion beyond the end of the list."""
        own = {name: value for name, value in self.model_dump().items() if value is not None}
        kept = export.model_dump(exclude={"promote", "explore"})
        return Export.model_validate({**kept, **own}, context=PAST)  # the numbers of both have been judged


class Keep(Section):
    """What is kept of past nights. Each night that publishes drops old generations; `nightrecs gc` drops the rest."""

    generations: PositiveInt = 7
    """Published databases to roll back to, including the live one."""
    lake_nights: PositiveInt = 3
    """Newest nights whose lake results stay, in addition to those of the live night and the one before it."""
    mlflow_nights: PositiveInt = 30
    """Newest nights that stay in MLflow; their registered models stay as long as the generation."""
    days: Annotated[float, Field(ge=0)] = 0
    """`gc` never removes anything younger than this."""
