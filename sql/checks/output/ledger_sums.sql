-- severity: error
-- reads: row_ledger, tonight
-- The rows of a stage are the kept rows of the stage before.
with sums as (
    select
        stage,
        sum(rows) as rows_in,
        sum(rows) filter (reason = 'kept') as kept,
        list_position(['ingest', 'clean', 'encode', 'split'], stage) as place
    from row_ledger
    semi join tonight using (run_id)
    group by stage
)

select later.stage, earlier.kept, later.rows_in
from sums as later
join sums as earlier on later.place = earlier.place + 1
where later.rows_in is distinct from earlier.kept
