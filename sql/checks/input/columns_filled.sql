-- severity: error
-- reads: source_rows, tonight
-- Every row has a user and an item, a finite rating or none, and a time if and only if a time column is configured.
select * from source_rows where user_id is null or user_id = ''
union all
select * from source_rows where item_id is null or item_id = ''
union all
select * from source_rows where not isfinite(rating)
union all
select source_rows.*
from source_rows
semi join tonight on (source_rows.timestamp is null) = tonight.timed
