-- the weights of the book's sectors, and of its symbols, are the whole book
with risk as (

    select * from {{ ref('fct_portfolio_risk') }}

),

summed as (

    select
        session,
        scope,
        sum(value) as weight_pct
    from risk
    where measure = 'weight_pct' and scope in ('sector', 'symbol')
    group by session, scope

),

final as (

    select *
    from summed
    where abs(weight_pct - 100) > 1e-6

)

select * from final
