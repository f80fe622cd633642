with disagreements as (

    select * from {{ ref('stg_quality__disagreement') }}

),

final as (

    select
        session,
        symbol,
        source,
        kind,
        cardinality(fields) as prices_apart,
        -- the price that is furthest off; a null among them does not count
        greatest(
            abs(open_apart_pct),
            abs(high_apart_pct),
            abs(low_apart_pct),
            abs(close_apart_pct)
        ) as largest_apart_pct,
        weight
    from disagreements
    where {{ session_filter('session') }}

)

select * from final
