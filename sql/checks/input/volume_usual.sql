-- severity: warn
-- reads: tonight, earlier_nights
-- Rows (incremental: rows added) are between half and twice the median of the last published nights with this mode.
with nights as (
    select run_id, mode, rows from earlier_nights
    union all
    select run_id, mode, rows from tonight
),

measured as (
    select
        run_id,
        case when mode = 'incremental' then rows - lag(rows) over (order by run_id) else rows end as volume
    from nights
),

usual as (
    select median(volume) as volume from measured anti join tonight using (run_id)
)

select measured.volume, usual.volume as usual_volume
from measured
semi join tonight using (run_id)
cross join usual
where measured.volume < 0.5 * usual.volume or measured.volume > 2 * usual.volume
