-- severity: error
-- reads: row_ledger, rejected_rows, tonight
-- Every rejected line of the source, the item catalog and the user attributes is listed exactly once.
with counted as (
    select coalesce(sum(rows), 0) as n
    from row_ledger
    semi join tonight using (run_id)
    where
        stage in ('ingest', 'catalog', 'users')
        and reason not in ('kept', 'duplicate', 'forgotten', 'after_as_of', 'comment', 'repeated_header')
),

listed as (
    select count(*) as n from rejected_rows
)

select counted.n as counted, listed.n as listed
from counted, listed
where counted.n <> listed.n
