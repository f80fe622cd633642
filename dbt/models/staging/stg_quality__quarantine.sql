-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('core', 'quality__quarantine') }}

),

final as (

    select
        contract,
        session,
        symbol,
        "check",
        row_no,
        reason,
        row_json
    from source

)

select * from final
