-- the exchange trades from Monday to Friday, but for its holidays
with holidays as (

    select * from {{ ref('exchange_holiday') }}

),

days as (

    select day::date as day
    from generate_series(date '1990-01-01', date '2049-12-31', interval '1 day') as day

),

sessions as (

    select days.day as session
    from days
    left join holidays
        on days.day = holidays.day
    where holidays.day is null and extract(isodow from days.day) <= 5

),

final as (

    select
        session,
        row_number() over (order by session) as session_no,
        lag(session) over (order by session) as previous_session,
        lead(session) over (order by session) as next_session
    from sessions

)

select * from final
