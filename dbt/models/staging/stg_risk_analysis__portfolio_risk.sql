-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('out', 'risk_analysis__portfolio_risk') }}

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
    from source

)

select * from final
