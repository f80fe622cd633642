-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('core', 'market__daily_bar') }}

),

final as (

    select
        session,
        symbol,
        open_usd,
        high_usd,
        low_usd,
        close_usd,
        volume_shares,
        close_move_pct,
        n_sources,
        n_agreed,
        chosen_source,
        volume_source,
        flags,
        simulated_fields,
        known_at_utc
    from source

)

select * from final
