-- severity: error
-- reads: recommendations, explorable_items, wanted
-- A row with the source explore has a new item that no rule of [export] excludes, is not at the top, and a list has at most
-- as many as export.explore keeps places for.
with drawn as (
    select user_id, rank, item_id, count(*) over (partition by user_id) as n
    from recommendations
    where source = 'explore'
),

final as (
    select drawn.user_id, drawn.rank, drawn.item_id, drawn.n
    from drawn
    left join explorable_items using (item_id)
    where explorable_items.item_id is null or drawn.rank = 1 or drawn.n > (select explored from wanted)
)

select * from final
