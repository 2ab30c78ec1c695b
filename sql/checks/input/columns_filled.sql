-- severity: error
-- reads: source_rows, tonight
-- Every row has a user and an item, a finite rating or none, and a time exactly where a time column is configured.
select source_rows.user_id, source_rows.item_id, source_rows.rating, source_rows.timestamp
from source_rows, tonight
where
    coalesce(source_rows.user_id, '') = ''
    or coalesce(source_rows.item_id, '') = ''
    or not coalesce(isfinite(source_rows.rating), true)
    or (source_rows.timestamp is not null) <> tonight.timed
