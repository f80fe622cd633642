-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('core', 'market__corporate_action') }}

),

final as (

    select
        session,
        symbol,
        kind,
        split_ratio,
        dividend_usd,
        simulated_fields,
        known_at_utc
    from source

)

select * from final
