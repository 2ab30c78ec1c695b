-- reads: biases, items
-- Items ranked by bias, for each model that has biases: by how much the item's score is raised for every user.
-- rank: 1 is the item with the highest bias of the model
-- item_id: Item id as in the source
create view items_by_bias as
select
    biases.model,
    row_number() over (partition by biases.model order by biases.bias desc, biases.id) as rank,
    biases.id as item_id,
    items.title,
    biases.bias,
    items.n_interactions
from biases
left join items on items.item_id = biases.id
where biases.kind = 'item'
