-- a bar of a day that the exchange's calendar does not know would be lost in the join
with bars as (

    select * from {{ ref('stg_market__daily_bar') }}

),

returns as (

    select * from {{ ref('fct_daily_return') }}

),

final as (

    select
        bars.session,
        bars.symbol
    from bars
    left join returns
        on
            bars.session = returns.session
            and bars.symbol = returns.symbol
    where
        returns.symbol is null
        {%- if var('session') is not none %}
        -- other sessions may be loaded and not built yet
        and bars.session = date '{{ var("session") }}'
        {%- endif %}

)

select * from final
