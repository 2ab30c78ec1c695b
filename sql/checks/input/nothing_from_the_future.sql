-- severity: error
-- reads: source_rows, bounds
-- No interaction is more than max_future_days after the start of the night: it would stay the newest for a long time.
-- remedy: correct the rows, this machine's clock or columns.timestamp_unit; or raise checks.max_future_days
select source_rows.user_id, source_rows.item_id, source_rows.timestamp, bounds.started_at as night_started_at
from source_rows, bounds
where source_rows.timestamp > bounds.started_at + bounds.max_future_days * interval 1 day
