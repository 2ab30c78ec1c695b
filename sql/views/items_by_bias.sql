-- reads: biases, items
-- Items ranked by bias, for each model that has biases: how much everybody's score of the item is raised.
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
