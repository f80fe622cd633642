-- a view: the risk of a session is measured after this project ran for it
with risk as (

    select * from {{ ref('stg_risk_analysis__portfolio_risk') }}

),

final as (

    select
        session,
        scope,
        name,
        measure,
        value,
        n,
        simulated
    from risk

)

select * from final
