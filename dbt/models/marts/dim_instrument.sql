with bars as (

    select
        symbol,
        min(session) as first_session,
        max(session) as last_session
    from {{ ref('stg_market__daily_bar') }}
    group by symbol

),

members as (

    select distinct on (symbol)
        symbol,
        sector
    from {{ ref('stg_reference__universe_member') }}
    order by symbol, session desc

),

named as (

    select * from {{ ref('sector') }}

),

symbols as (

    select symbol from bars
    union
    select symbol from members
    union
    select symbol from named

),

final as (

    select
        symbols.symbol,
        coalesce(named.name, symbols.symbol) as name,
        coalesce(members.sector, named.sector, 'Unclassified') as sector,
        case
            when symbols.symbol like '^%' or named.sector = 'Index' then 'index'
            else 'equity'
        end as kind,
        bars.first_session,
        bars.last_session
    from symbols
    left join bars
        on symbols.symbol = bars.symbol
    left join members
        on symbols.symbol = members.symbol
    left join named
        on symbols.symbol = named.symbol

)

select * from final
