-- severity: error
-- reads: recommendations, reasons, source_rows
-- Every reason belongs to a recommendation of the model and to an item of the user's own rows; shares are above 0 and
-- sum to 1. No item is a reason twice.
with repeated as (  -- by hash, which needs less memory than the ids
    select hash(user_id, rank, because_item_id) as key from reasons where because_rank > 0
    group by key having count(*) > 1
)

select user_id, rank, 'no such recommendation of the model' as problem
from reasons
anti join (select user_id, rank from recommendations where source = 'model') using (user_id, rank)
union all
select reasons.user_id, reasons.rank, 'not an item of the user'
from reasons
anti join source_rows on source_rows.user_id = reasons.user_id and source_rows.item_id = reasons.because_item_id
where reasons.because_rank > 0
union all
select user_id, rank, 'shares'
from reasons
group by user_id, rank
having min(share) <= 0 or abs(sum(share) - 1) > 1e-6 or count(because_item_id) <> count(*) filter (because_rank > 0)
union all
select reasons.user_id, reasons.rank, 'twice'
from reasons
semi join repeated on repeated.key = hash(reasons.user_id, reasons.rank, reasons.because_item_id)
where because_rank > 0
group by reasons.user_id, reasons.rank
having count(distinct because_item_id) < count(*)
