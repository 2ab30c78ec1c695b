-- severity: error
-- reads: users, items, interactions_summary, source_rows, row_ledger, tonight
-- The interactions of all users, of all items, the summary and what the ledger kept of the source are as many as there are valid
-- rows, and the summary counts the users and items that the tables have.
with valid as (
    select count(*) as n from source_rows
),

found as (
    select 'interactions of users' as what, (select coalesce(sum(n_interactions), 0) from users) as n, valid.n as expected
    from valid
    union all
    select 'interactions of items', (select coalesce(sum(n_interactions), 0) from items), valid.n from valid
    union all
    select 'rows of the summary', (select sum(rows) from interactions_summary), valid.n from valid
    union all
    select 'rows kept of the source', row_ledger.rows, valid.n
    from row_ledger
    semi join tonight using (run_id)
    cross join valid
    where row_ledger.stage = 'ingest' and row_ledger.reason = 'kept'
    union all
    select 'users of the summary', (select sum(users) from interactions_summary), count(*) from users
    union all
    select 'items of the summary', (select sum(items) from interactions_summary), count(*)
    from items
    where n_interactions > 0
),

final as (
    select what, n, expected from found where n is distinct from expected
)

select * from final
