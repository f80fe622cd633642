-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('core', 'quality__disagreement') }}

),

final as (

    select
        session,
        symbol,
        source,
        kind,
        fields,
        open_usd,
        high_usd,
        low_usd,
        close_usd,
        open_apart_pct,
        high_apart_pct,
        low_apart_pct,
        close_apart_pct,
        weight,
        evidence,
        volume_share
    from source

)

select * from final
