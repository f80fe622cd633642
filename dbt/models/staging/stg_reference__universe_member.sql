-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('core', 'reference__universe_member') }}

),

final as (

    select
        session,
        symbol,
        sector,
        membership_dated
    from source

)

select * from final
